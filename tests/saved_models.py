"""Plain SavedModels to serve in tests, none of them made by Keras."""

import tensorflow as tf


def export_half_plus(path, offset):
    """Writes half_plus_two's kin: x / 2 + offset, to predict, classify and regress.

    As in TF Serving's own test model, the examples have a feature `x`, and classes are scores
    without labels, or labels with scores.
    """
    module = tf.Module()
    module.offset = tf.Variable(float(offset))

    def parse(inputs):
        features = {"x": tf.io.FixedLenFeature([], tf.float32)}
        return tf.io.parse_example(inputs, features)["x"] / 2 + module.offset

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def half_plus(x):
        return {"y": x / 2 + module.offset}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def regress(inputs):
        return {"outputs": parse(inputs)[:, None]}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def classify(inputs):
        y = parse(inputs)
        classes = tf.tile([["y", "minus y"]], [tf.size(y), 1])
        return {"classes": classes, "scores": tf.stack([y, -y], 1)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def scores(inputs):
        return {"scores": parse(inputs)[:, None]}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def features(inputs):
        names = {
            "text": tf.io.VarLenFeature(tf.string),
            "whole": tf.io.VarLenFeature(tf.int64),
            "x": tf.io.VarLenFeature(tf.float32),
        }
        parsed = tf.io.parse_example(inputs, names)
        texts = tf.sparse.to_dense(parsed["text"])
        whole = tf.strings.as_string(tf.sparse.to_dense(parsed["whole"]))
        floats = tf.strings.as_string(tf.sparse.to_dense(parsed["x"]), shortest=True)
        return {"classes": tf.concat([texts, whole, floats], 1)}

    signatures = {
        "serving_default": half_plus,
        "regress_x_to_y": regress,
        "classify_x_to_y": classify,
        "scores": scores,
        "features": features,
    }
    module.functions = list(signatures.values())
    tf.saved_model.save(module, str(path), signatures)


def export_half_plus_tf1(path, offset):
    """Writes the same in TensorFlow 1's way, with method names that say classify and regress."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        offset = v1.Variable(float(offset))
        examples = v1.placeholder(tf.string, [None], name="tf_example")
        x = v1.placeholder(tf.float32, [None], name="x")
        parsed = v1.io.parse_example(examples, {"x": tf.io.FixedLenFeature([1], tf.float32)})["x"]
        session.run(v1.global_variables_initializer())
        utils = v1.saved_model.signature_def_utils
        builder = v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            signature_def_map={
                "serving_default": utils.predict_signature_def({"x": x}, {"y": x / 2 + offset}),
                "regress_x_to_y": utils.regression_signature_def(examples, parsed / 2 + offset),
                "classify_x_to_y": utils.classification_signature_def(
                    examples, None, parsed / 2 + offset
                ),
            },
        )
        builder.save()
