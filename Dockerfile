# The gateway's image; `--target simulator` is the simulated exchange's, for development. Build with BuildKit or buildah:
#   docker build --build-arg REVISION="$(git rev-parse HEAD)" --tag coinm-account-gateway:0.1.0 .

# Python's patch and Debian's packages by digest (the index of all platforms); renew both together.
ARG BASE=docker.io/library/python:3.13.16-slim-trixie@sha256:bf44cdfcb76cd3b41e879bc058fc37ec5872002ccfde7fcb765e218cde0cd79c

FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
COPY requirements/build.txt requirements/service.txt requirements/
# pip and the build backend are in an environment of their own, which no image has.
RUN python3 -m venv tools \
    && tools/bin/pip install --quiet --require-hashes --only-binary :all: --requirement requirements/build.txt \
    && python3 -m venv --without-pip /opt/gateway \
    && tools/bin/pip --python /opt/gateway/bin/python install --quiet --require-hashes --only-binary :all: --requirement requirements/service.txt
COPY pyproject.toml README.md LICENSE ./
COPY docs/callers.md docs/clients.md docs/
COPY service service
RUN tools/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir wheels . \
    && tools/bin/pip --python /opt/gateway/bin/python install --quiet --no-deps wheels/*.whl

FROM build AS build-simulator
COPY requirements/simulator.txt requirements/
RUN tools/bin/pip --python /opt/gateway/bin/python install --quiet --require-hashes --only-binary :all: --requirement requirements/simulator.txt

# Both images: their files are root's and readable by everybody, so that any user, a random one too, can run them.
FROM ${BASE} AS runtime
ENV PATH=/opt/gateway/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /
USER 65532:65532

FROM runtime AS simulator
COPY --from=build-simulator /opt/gateway /opt/gateway
COPY simulator /opt/simulator/simulator
ENV PYTHONPATH=/opt/simulator
EXPOSE 8100
ENTRYPOINT ["python", "-m", "simulator"]
CMD ["exchange", "--port", "8100"]
LABEL org.opencontainers.image.title="COIN-M account gateway: simulated exchange"

FROM runtime AS gateway
COPY --from=build /opt/gateway /opt/gateway
ENV COINM_GATEWAY_CONFIG=/etc/coinm-gateway/gateway.toml
EXPOSE 8000 9464
# Our process is PID 1, without a shell, and ends by SIGTERM. No HEALTHCHECK: the probes are the cluster's.
ENTRYPOINT ["coinm-gateway"]
CMD ["serve"]
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="COIN-M account gateway" \
      org.opencontainers.image.description="Holds a Binance COIN-M account's credentials and serves its balances, margins and positions from one shared snapshot." \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
