# Nothing for Python: `rows.pxd` declares what other Cython code imports.

__test__: dict[str, str]
