# vnic in a container. docs/install.md says how to run it, and which rights it needs for what.
#   docker build -t vnic .
ARG BASE=debian:trixie-slim

FROM $BASE AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev python3 python3-venv
COPY . /src
RUN python3 -m venv /opt/vnic \
    && /opt/vnic/bin/pip install --no-cache-dir --disable-pip-version-check "/src[web,mcp]"

FROM $BASE
# passt is `-netdev user` and `-netdev passt`. The guest of `vnic guest`, `vnic demo` and of labs is User-Mode Linux.
RUN apt-get update \
    && apt-get install -y --no-install-recommends busybox-static iproute2 passt python3 user-mode-linux \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/vnic /opt/vnic
ENV PATH=/opt/vnic/bin:$PATH
# The QMP sockets, for the verbs of other containers and of the host.
VOLUME /run/vnic
ENTRYPOINT ["vnic"]
CMD ["-h"]
