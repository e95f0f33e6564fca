# One image for every part: `docker run IMAGE api`, `worker`, `scheduler`, `migrate`, or `serve` for all in one. See docs/operations.md.
#
#   CPU    docker build --build-arg TORCH_INDEX_URL=<PyTorch's index of CPU wheels> -t engram:0.1.0 .
#   CUDA   docker build -t engram:0.1.0-cuda .        pip's own index carries torch with CUDA, several gigabytes
#
# The Python is the one that the tests run on. Pin BASE_IMAGE by digest to build the same system twice; constraints.txt pins the rest.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
RUN ["python", "-m", "venv", "/opt/engram"]
COPY constraints.txt pyproject.toml ./
# torch first and alone: it is nearly all of the image, and changes least. That index is asked for torch and for nothing else.
ARG TORCH_INDEX_URL
RUN torch="$(sed -n '/^torch==/p' constraints.txt)" \
 && if [ -n "$TORCH_INDEX_URL" ]; then PIP_INDEX_URL="$TORCH_INDEX_URL" /opt/engram/bin/pip install --no-deps "$torch"; fi
# then what pyproject.toml asks for, traces included, which OTEL_* variables switch on, in the versions of constraints.txt; a change of our code alone begins below this layer
RUN /opt/engram/bin/python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*p['dependencies'], *p['optional-dependencies']['otel'], sep='\n')" > requirements.txt \
 && /opt/engram/bin/pip install --constraint constraints.txt --requirement requirements.txt setuptools
# a C compiler for app/lstm/native: what is built goes on, the compiler stays behind
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY README.md LICENSE setup.py ./
COPY migrations migrations
COPY workers workers
COPY app app
RUN /opt/engram/bin/pip install --no-deps --no-build-isolation . && /opt/engram/bin/pip check && /opt/engram/bin/pip uninstall --yes pip

FROM ${BASE_IMAGE}
RUN groupadd --gid 10001 engram \
 && useradd --uid 10001 --gid engram --home-dir /tmp --no-create-home --shell /usr/sbin/nologin engram \
 && install --directory --owner=engram --group=engram /data
COPY --from=build /opt/engram /opt/engram
# Nothing is written but /tmp (sockets between a worker and its children, in memory) and, by the embedded engines alone, /data.
ENV PATH=/opt/engram/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp \
    ENGRAM_DATA_DIR=/data ENGRAM_HOST=0.0.0.0 ENGRAM_LOG_FORMAT=json
WORKDIR /data
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["engram", "alive", "api"]
ENTRYPOINT ["engram"]
CMD ["api"]
