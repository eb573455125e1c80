"""A trained network for use elsewhere: ONNX, safetensors and a model card."""
