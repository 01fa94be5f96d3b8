# The service on a CPU (cpu, the default), an NVIDIA GPU (gpu) or with TensorRT (tensorrt), and
# training (train); docker/README.md tells how to use them.
#
# BASE_IMAGE is any Debian with Python 3.11 to 3.13 and its venv module.
ARG BASE_IMAGE=python:3.13-slim-bookworm


FROM ${BASE_IMAGE} AS base
RUN groupadd --gid 10001 mutualformer \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent \
        --shell /usr/sbin/nologin mutualformer
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONFAULTHANDLER=1 PATH=/opt/venv/bin:$PATH
WORKDIR /srv/mutualformer


# Each environment is filled by a pip outside it, from locked wheels that builds share. A secret
# `pip.conf` may name another package index.
FROM base AS build
RUN python3 -m venv /pip && python3 -m venv --without-pip /opt/venv
COPY docker/build_venv.sh docker/sbom.py /build/

FROM build AS cpu-venv
COPY locks/serve.txt /build/
RUN --mount=type=cache,target=/root/.cache/pip,sharing=locked \
    --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    sh /build/build_venv.sh /build/serve.txt

FROM build AS gpu-venv
COPY locks/gpu.txt /build/
RUN --mount=type=cache,target=/root/.cache/pip,sharing=locked \
    --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    sh /build/build_venv.sh /build/gpu.txt

# TensorRT's own packages fetch their libraries from NVIDIA's index while they install.
FROM build AS tensorrt-venv
COPY locks/tensorrt.txt /build/
RUN --mount=type=cache,target=/root/.cache/pip,sharing=locked \
    --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    sh /build/build_venv.sh /build/tensorrt.txt

FROM build AS train-venv
COPY locks/train.txt /build/
RUN --mount=type=cache,target=/root/.cache/pip,sharing=locked \
    --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    sh /build/build_venv.sh /build/train.txt


# Compiled here, because the service cannot write where it runs; readable whatever the checkout's
# umask was.
FROM build AS code
COPY LICENSE docker/healthcheck.py ./
COPY model model
COPY app app
RUN chmod -R a+rX . && python3 -m compileall -q --invalidation-mode unchecked-hash .

FROM code AS code-with-export
COPY export export
RUN chmod -R a+rX export && python3 -m compileall -q --invalidation-mode unchecked-hash export

FROM build AS code-of-training
COPY LICENSE ./
COPY model model
COPY export export
COPY training training
RUN chmod -R a+rX . && python3 -m compileall -q --invalidation-mode unchecked-hash .


FROM base AS labelled
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="MutualFormer Serve" \
    org.opencontainers.image.description="Saliency of colour and depth, embeddings of colour and near-infrared, over HTTP" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.licenses="Apache-2.0" \
    io.mutualformer.sbom="/opt/venv/sbom.cdx.json"
USER 10001:10001

# ONNX Runtime would report to its makers from its first import on.
ENV ORT_DISABLE_TELEMETRY=1

FROM labelled AS service
ENV MUTUALFORMER_HOST=0.0.0.0 MUTUALFORMER_PORT=8000 MUTUALFORMER_BUNDLES=/bundles
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python3", "healthcheck.py"]
ENTRYPOINT ["python3", "-m", "app"]
CMD ["serve"]

FROM service AS nvidia
ENV MUTUALFORMER_DEVICE=cuda NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    CUDA_CACHE_PATH=/tmp/cuda


# Triton compiles the launchers of its kernels where it runs.
FROM labelled AS train
USER root
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
USER 10001:10001
COPY --from=train-venv /opt/venv /opt/venv
COPY --from=code-of-training /srv/mutualformer /srv/mutualformer
ENV HOME=/tmp NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
ENTRYPOINT ["python3", "-m"]
CMD ["training", "--help"]

# CUDA and cuDNN are found by the loader's cache: the wheels of ONNX Runtime do not look for them.
FROM nvidia AS tensorrt
COPY --from=tensorrt-venv /opt/venv /opt/venv
COPY --from=code-with-export /srv/mutualformer /srv/mutualformer
USER root
RUN find /opt/venv/lib -type d \( -path '*/nvidia/*/lib' -o -name tensorrt_libs \) \
        >/etc/ld.so.conf.d/wheels.conf \
    && ldconfig \
    && install -d -o 10001 -g 10001 /engines
USER 10001:10001
ENV MUTUALFORMER_RUNTIME=tensorrt MUTUALFORMER_ENGINES=/engines

FROM nvidia AS gpu
COPY --from=gpu-venv /opt/venv /opt/venv
COPY --from=code /srv/mutualformer /srv/mutualformer
USER root
RUN find /opt/venv/lib -type d -path '*/nvidia/*/lib' >/etc/ld.so.conf.d/wheels.conf && ldconfig
USER 10001:10001

FROM service AS cpu
COPY --from=cpu-venv /opt/venv /opt/venv
COPY --from=code /srv/mutualformer /srv/mutualformer
