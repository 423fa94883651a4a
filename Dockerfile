# CPU:  docker build -t lrm_jax .
# GPU:  docker build -t lrm_jax:cuda12 --build-arg EXTRA=cuda12 .     EXTRA may list several extras: cuda12,gs
#
#   docker run --rm -v "$PWD:/work" --user "$(id -u):$(id -g)" lrm_jax lrm_jax.reconstruct photo.png --out=out
#   docker run --rm -v "$PWD:/work" --user "$(id -u):$(id -g)" --gpus=all --shm-size=8g lrm_jax:cuda12 \
#     lrm_jax.train --config=base --workdir=runs/base --config.data.path=DIR --config.loss.lpips_network=FILE

FROM python:3.12-slim

# OpenGL without a display, for `lrm_jax.data.render --engine=raster`.
RUN apt-get update \
  && apt-get install --yes --no-install-recommends libegl1 libegl-mesa0 libgl1-mesa-dri \
  && rm -rf /var/lib/apt/lists/*

ARG EXTRA=""
COPY . /src
# The lock file pins the versions; it also holds those of JAX's CUDA plugins together with JAX.
RUN pip install --no-cache-dir --constraint /src/requirements/lock-3.12.txt "/src[train,raster${EXTRA:+,${EXTRA}}]" \
  && rm -rf /src

RUN useradd --create-home lrm && mkdir /work && chown lrm /work
USER lrm
WORKDIR /work
# Compiled programs and downloaded models: a place that any user of `docker run --user` can write to.
ENV XDG_CACHE_HOME=/tmp/cache

ENTRYPOINT ["python", "-m"]
CMD ["lrm_jax.reconstruct", "--help"]
