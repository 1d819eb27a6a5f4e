"""The Python API: the classes and functions of `import gpt2dist`, on the same library functions as the verbs."""
