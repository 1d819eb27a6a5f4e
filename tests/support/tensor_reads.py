"""Methods of a tensor that read its value, for which the host waits for the device."""

READS = ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__", "nonzero")
