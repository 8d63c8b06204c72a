# Trains, evaluates and samples on NVIDIA GPUs, or on a CPU:
#   docker build -t tarflow .
#   mkdir -p outputs && docker run --gpus all --ipc=host --user "$(id -u)" \
#     -v "$PWD/outputs:/data/outputs" tarflow train experiment=digits_samples
# Without flash-attn, and without CUDA's compiler:
#   docker build --build-arg FLASH_ATTN_VERSION= --build-arg BUILD_IMAGE=ubuntu:24.04 -t tarflow .
# docs/cluster.md tells which versions go together. Both images are to have the same Python, and the
# runtime's C library must not be older than that of the build.
ARG CUDA_VERSION=13.0.2
ARG UBUNTU_VERSION=24.04
ARG PYTHON_VERSION=3.12
ARG BUILD_IMAGE=nvidia/cuda:${CUDA_VERSION}-devel-ubuntu${UBUNTU_VERSION}
ARG RUNTIME_IMAGE=ubuntu:${UBUNTU_VERSION}

FROM ${BUILD_IMAGE} AS build
ARG PYTHON_VERSION
ENV DEBIAN_FRONTEND=noninteractive \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PATH=/opt/venv/bin:/usr/local/cuda/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

# The distribution drops a package's older versions: a pin would break the build, the image's tag does not.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        g++ "python${PYTHON_VERSION}-dev" "python${PYTHON_VERSION}-venv" \
    && rm -rf /var/lib/apt/lists/*
RUN "python${PYTHON_VERSION}" -m venv /opt/venv

# torch and its CUDA libraries have versions of their own here; all else is what was tested together.
ARG TORCH_VERSION=2.13.0
ARG TORCHVISION_VERSION=0.28.0
WORKDIR /opt/build
COPY constraints.txt ./
RUN grep --invert-match --extended-regexp '^(torch|torchvision|triton|(cuda|nvidia)-.*)==' \
        constraints.txt > image.txt \
    && echo "torch==${TORCH_VERSION}" >> image.txt \
    && echo "torchvision==${TORCHVISION_VERSION}" >> image.txt \
    && pip install --constraint image.txt torch torchvision

# Compiled here, against this torch and for these GPUs: 8.0 A100, 9.0 H100, 10.0 B200. Each job of the
# compiler takes some 5 GiB for each of its threads, and each of 72 kernels minutes for each GPU.
ARG FLASH_ATTN_VERSION=2.8.3.post2
ARG FLASH_ATTN_CUDA_ARCHS="80;90;100"
ARG MAX_JOBS=4
ARG NVCC_THREADS=1
# hadolint ignore=DL3013
RUN if [ -n "${FLASH_ATTN_VERSION}" ]; then \
        pip install --constraint image.txt einops ninja packaging psutil setuptools wheel \
        && FLASH_ATTENTION_FORCE_BUILD=TRUE pip install --no-build-isolation --no-deps \
            "flash-attn==${FLASH_ATTN_VERSION}" \
        && python -c "from flash_attn import flash_attn_func"; \
    fi

COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY conf conf
COPY tarflow tarflow
RUN pip install --constraint image.txt ".[tensorboard,wandb]" && pip check

FROM ${RUNTIME_IMAGE} AS runtime
ARG PYTHON_VERSION
# A C compiler and Python's headers, with which Triton and inductor build what torch.compile asks for.
# The libraries of InfiniBand, without which NCCL silently takes TCP between nodes.
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        ca-certificates g++ ibverbs-providers libibverbs1 "libpython${PYTHON_VERSION}-dev" "python${PYTHON_VERSION}" \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/venv /opt/venv
COPY scripts /opt/tarflow/scripts

# Any user may write where commands run, in /tmp and in /cache, a place to mount a volume on. HOME is
# /tmp, for it is writable also where the root is not; USER and LOGNAME stand in for the name that a
# uid without a line in /etc/passwd lacks.
RUN mkdir -p /data /cache && chmod 1777 /data /cache
ENV PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    USER=tarflow \
    LOGNAME=tarflow \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
# A number, so that clusters that forbid root accept the image.
USER 1000
WORKDIR /data
HEALTHCHECK --interval=5m --timeout=2m --start-period=2m --retries=3 \
    CMD ["tarflow", "doctor", "quick=true"]
ENTRYPOINT ["tarflow"]
CMD ["--help"]
