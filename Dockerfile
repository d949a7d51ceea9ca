# syntax=docker/dockerfile:1
# paddle2torch on a CPU, for reading pages and for serving, as a user without rights:
#
#   docker build -t paddle2torch .
#   docker run --rm --read-only --tmpfs /tmp -v models:/models -v "$PWD:/work:ro" paddle2torch ocr page.jpg
#   docker run --rm --read-only --tmpfs /tmp -v models:/models -p 127.0.0.1:8000:8000 -e PADDLE2TORCH_TOKEN=… paddle2torch
#
# Models come into the volume when they are first used. For a container that reaches nothing, fill it before:
# `docker run --rm -v models:/models paddle2torch convert PP-OCRv6_small_rec`. `--compiled` needs a C++ compiler, which
# is not in here.
ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
RUN pip install --no-cache-dir uv==0.13.9
COPY . /source
# What uv is told about PyTorch: its CPU builds, from PyTorch's own index. `--build-arg TORCH=` takes what PyPI has.
ARG TORCH="--torch-backend cpu"
# hadolint ignore=SC2086
RUN uv venv /opt/paddle2torch \
 && uv pip install --no-cache --python /opt/paddle2torch/bin/python ${TORCH} '/source[serve]'

FROM python:${PYTHON}-slim
RUN useradd --system --uid 10001 --home-dir /nonexistent --shell /usr/sbin/nologin reader \
 && install -d -o reader -g reader -m 700 /models \
 && install -d -m 755 /work
COPY --from=build /opt/paddle2torch /opt/paddle2torch
# Everything that is written goes to /models and /tmp.
ENV PATH=/opt/paddle2torch/bin:$PATH \
    PADDLE2TORCH_HOME=/models \
    HF_HOME=/models/hub_library \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
VOLUME /models
WORKDIR /work
USER 10001
EXPOSE 8000
# Of `serve`; while models are fetched for the first time, it does not listen yet.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10m \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=4)"]
ENTRYPOINT ["paddle2torch"]
# Others than the container reach it by the port that is published: it asks for PADDLE2TORCH_TOKEN.
CMD ["serve", "--host", "0.0.0.0"]
