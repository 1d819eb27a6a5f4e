# syntax=docker/dockerfile:1
# gpt2dist with its exact set of packages, for NVIDIA GPUs and CPUs. docs/guides/cluster.md shows its use.
#
#   docker build --tag gpt2dist:0.1 .
#   docker run --rm --gpus all --shm-size 8g --volume "$PWD:/workspace" gpt2dist:0.1 gpt2dist quickstart

# The base has CUDA's runtime, without the libraries that come with torch. Triton compiles its launchers with gcc.
FROM nvidia/cuda:13.0.1-base-ubuntu24.04 AS python
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        gcc=4:13.2.0-* libc6-dev=2.39-* python3.12=3.12.3-* python3.12-dev=3.12.3-* python3.12-venv=3.12.3-* \
    && rm -rf /var/lib/apt/lists/*
ENV PATH=/opt/gpt2dist/bin:$PATH

FROM python AS build
WORKDIR /src
COPY constraints.txt ./
# torch first, in a layer of its own: DeepSpeed looks for it when it is installed, and it changes rarely.
RUN python3.12 -m venv /opt/gpt2dist \
    && pip install --no-cache-dir --constraint constraints.txt torch
COPY . .
RUN pip install --no-cache-dir --constraint constraints.txt .

FROM python
COPY --from=build /opt/gpt2dist /opt/gpt2dist
RUN useradd --create-home --uid 10001 gpt2dist && install --directory --owner gpt2dist /workspace
USER 10001
WORKDIR /workspace
CMD ["gpt2dist", "--help"]
