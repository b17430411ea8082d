"""Measuring fastconv beside other libraries on the layers of real networks.

Start reading at `bench`, which follows one layer from data to result: `station` makes everybody ready in one process,
`apart` in a process each, `measuring` is the clock. `comparison` goes through workloads (`layers`, `onnx_layers`) and
makes a `document`; `summary` and `intervals` say what it means; `terminal`, `markdown` and `page` (with `tables` and
`plots`) show it; `changes` compares two; `sweep` lets one side of a problem grow. `peers` holds one file per library.
"""
