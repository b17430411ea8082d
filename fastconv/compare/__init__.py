"""Measuring fastconv beside other libraries on the layers of real networks.

Start reading at `bench`, which follows one layer from data to result; `peers` holds one file per library.
"""
