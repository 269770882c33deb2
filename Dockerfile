# Builds int8 libraries on a server:
#   docker build -t pipeline .
#   docker run --rm --user "$(id -u)" -v "$PWD:/work" pipeline build model.onnx --samples samples --target android-arm64 -o out
# Nothing but Python and packages is needed; the linker is one of them.
FROM python:3.12-slim AS wheel
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
COPY --from=wheel /wheels /wheels
RUN pip install --no-cache-dir "onnx-int8-pipeline[images] @ file://$(echo /wheels/*.whl)" && rm -r /wheels
RUN useradd --create-home pipeline
USER pipeline
WORKDIR /work
ENTRYPOINT ["pipeline"]
CMD ["--help"]
