"""Run LiteRT files."""

import numpy as np

from keras_multiception.compression.litert_operators import read_litert
from keras_multiception.layers.arguments import standardize_integer


class LiteRTModel:
    """A LiteRT model with one input and one output, run by `ai-edge-litert`.

    Not to be shared between threads.

    Args:
        model: Path of the file, or its content as bytes.
        num_threads: Positive integer.

    Attributes:
        input_shape: Tuple, `None` where open, as in Keras.
        output_shape: Tuple of the same kind.
        input_dtype: NumPy's dtype of the file's input: float32, or an integer type.

    Raises:
        ImportError: If `ai-edge-litert` is not installed.
        ValueError: If an argument is out of its range, or the model has several inputs or outputs.

    Example:
        >>> probabilities = LiteRTModel("model.tflite", num_threads=2).predict(images)
    """

    def __init__(self, model, num_threads=1):
        from ai_edge_litert.interpreter import Interpreter

        num_threads = standardize_integer(num_threads, "num_threads")
        content = read_litert(model)
        try:
            self._interpreter = Interpreter(model_content=content, num_threads=num_threads)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"`model` must be a whole LiteRT model. Received: {error}") from None
        inputs, outputs = (
            self._interpreter.get_input_details(),
            self._interpreter.get_output_details(),
        )
        if len(inputs) != 1 or len(outputs) != 1:
            raise ValueError(
                "`model` must have one input and one output. "
                f"Received: {len(inputs)} inputs and {len(outputs)} outputs"
            )
        self._input, self._output = inputs[0], outputs[0]
        self._allocated: tuple | None = None  # the shape that memory is set aside for
        self.input_shape, self.output_shape = (
            tuple(None if size == -1 else int(size) for size in details["shape_signature"])
            for details in (self._input, self._output)
        )
        self.input_dtype = np.dtype(self._input["dtype"])

    def predict(self, images, batch_size=32):
        """Run the model on images of any number.

        Integer inputs and outputs are converted from and to float32 by the file's own scales.

        Args:
            images: Array of float32 with the model's input shape; of an integer model, integers
                of its dtype pass as they are.
            batch_size: Positive integer, how many images run at once.

        Returns:
            An array of float32.

        Raises:
            ValueError: If an argument is out of its range.
        """
        images = np.asarray(images)
        batch_size = standardize_integer(batch_size, "batch_size")
        fits = images.ndim == len(self.input_shape) and all(
            own in (None, size)
            for size, own in zip(images.shape[1:], self.input_shape[1:], strict=True)
        )
        floats = np.issubdtype(images.dtype, np.floating)
        if not fits or not len(images) or not (floats or images.dtype == self.input_dtype):
            raise ValueError(
                f"`images` must be float32 of shape {self.input_shape}. "
                f"Received: {images.dtype} of shape {images.shape}"
            )
        starts = range(0, len(images), batch_size)
        return np.concatenate([self._run(images[i : i + batch_size]) for i in starts])

    def _run(self, images):
        index = self._input["index"]
        if images.shape != self._allocated:
            self._interpreter.resize_tensor_input(index, images.shape)
            self._interpreter.allocate_tensors()
            self._allocated = images.shape
        self._interpreter.set_tensor(index, self._to_input(images))
        self._interpreter.invoke()
        y = self._interpreter.get_tensor(self._output["index"])
        scale, zero_point = self._output["quantization"]
        return (y.astype("float32") - zero_point) * np.float32(scale) if scale else y

    def _to_input(self, images):
        scale, zero_point = self._input["quantization"]
        if images.dtype == self.input_dtype:
            return images
        if not scale:
            return images.astype(self.input_dtype)
        limits = np.iinfo(self.input_dtype)
        return np.clip(np.rint(images / scale) + zero_point, limits.min, limits.max).astype(
            self.input_dtype
        )
