# The image of docker/Dockerfile with Ray, for replicas on Kubernetes (deploy/rayservice.yaml) and batches with --ray:
#
#   docker build -f docker/Dockerfile -t chatglm-cpp . && docker build -f docker/ray.Dockerfile -t chatglm-cpp-ray .
ARG IMAGE=chatglm-cpp:latest
FROM ${IMAGE}

# All machines of a cluster have one version of Ray: that of deploy/rayservice.yaml.
ARG RAY=2.60.0

# KubeRay looks after its containers with wget.
USER 0
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends wget \
    && rm -rf /var/lib/apt/lists/* \
    && pip install --no-cache-dir "ray[data,serve]==${RAY}"
USER 1000

# The dashboard, where applications are given to the cluster.
EXPOSE 8265

# KubeRay brings its own commands and looks after their health.
HEALTHCHECK NONE
ENTRYPOINT []
CMD ["bash"]
