"""The kernels: one specification (`spec`), one reference, and the backends that must agree with it."""
