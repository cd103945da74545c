"""The same losses under the names and conventions of other libraries; each module imports its library itself."""
