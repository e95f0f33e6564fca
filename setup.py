"""Only what pyproject.toml cannot say: the compiled code of app/lstm/native, which any C compiler builds and nobody must have."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "app.lstm._native",
            ["app/lstm/native/any.c", "app/lstm/native/avx2.c"],
            depends=[
                f"app/lstm/native/{name}" for name in ("engine.h", "lanes.h", "fitted.c", "forecast.c", "pinball.c", "steps.c")
            ],
            extra_compile_args=["-O3", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd", "-Wno-psabi"],
            libraries=["m"],
            optional=True,  # without a compiler torch does it, slower
        )
    ]
)
