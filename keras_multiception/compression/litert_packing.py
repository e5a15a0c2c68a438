"""LiteRT files as small as their content allows, and called by the names of their signatures."""


def repack(content):
    """Write a LiteRT file anew; it computes the same.

    - Inputs and outputs are named as its signatures name them: TensorFlow Serving calls a file by
      the names of its tensors and passes over its signatures.
    - What is equal is written once. Above all these are the zero points, eight bytes for every
      channel of a kernel although each of them is 0.
    - A constant keeps the name of one operation that it comes from, of the many that were folded;
      what flows between operators has none.
    - Constants begin at multiples of 16 bytes, as the format asks.

    Args:
        content: Bytes, what the converter made.

    Returns:
        Bytes.

    Reference:
        TensorFlow Lite's `schema.fbs`; TensorFlow Serving's `tflite_session.cc`, which makes the
        signature `serving_default` of the tensors' names.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content)
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            data = model.buffers[tensor.buffer].data
            is_constant = data is not None and len(data) > 0
            tensor.name = tensor.name.split(b";")[-1] if is_constant else b""
    for signature in model.signatureDefs:
        tensors = model.subgraphs[signature.subgraphIndex].tensors
        for tensor in (*signature.inputs, *signature.outputs):
            tensors[tensor.tensorIndex].name = tensor.name
    builder = _sharing_builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _sharing_builder(size):
    """Return a builder of flatbuffers that writes equal vectors and strings once."""
    import flatbuffers

    class SharingBuilder(flatbuffers.Builder):
        def __init__(self, size):
            super().__init__(size)
            self._written = {}

        def StartVector(self, size, count, alignment):
            return super().StartVector(size, count, 16 if size == 1 else alignment)

        def CreateNumpyVector(self, array):
            return self._once((array.dtype.str, array.tobytes()), super().CreateNumpyVector, array)

        def CreateString(self, text):
            return self._once(text, super().CreateString, text)

        def _once(self, key, write, value):
            if key not in self._written:
                self._written[key] = write(value)
            return self._written[key]

    return SharingBuilder(size)
