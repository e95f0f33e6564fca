"""Only what pyproject.toml cannot say: the compiled forecasts (app/lstm/native), which any C compiler builds and nobody must have."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "app.lstm._native",
            ["app/lstm/native/any.c", "app/lstm/native/avx2.c"],
            depends=["app/lstm/native/engine.h", "app/lstm/native/fitted.c", "app/lstm/native/forecast.c"],
            extra_compile_args=["-O3", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd", "-Wno-psabi"],
            libraries=["m"],
            optional=True,  # without a compiler app/lstm/ensemble.py forecasts, slower
        )
    ]
)
