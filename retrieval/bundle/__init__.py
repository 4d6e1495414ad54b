"""The contract on disk: names, manifest and files of a bundle, and the feature encoder; needs only NumPy.

Texts additionally need the package ``tokenizers``, which is imported when a tokenizer is opened.
"""
