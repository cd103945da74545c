"""Compiles `beam.pyx`. Only fastnll's .pxd is needed for it: nothing is linked."""

from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

import fastnll

# Where Cython finds fastnll/rows.pxd, however fastnll was installed.
site = str(Path(fastnll.__file__).parent.parent)

setup(ext_modules=cythonize([Extension("beam", ["beam.pyx"])], include_path=[site], language_level=3))
