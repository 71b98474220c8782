"""Explaining datasets: jobs that lose nothing, and stores that are read lazily.

`explain` goes over a dataset and keeps relevance, scores and errors in a store of Zarr;
`relprop.load` opens one.
"""

from relprop.jobs._explained import Explained as Explained
from relprop.jobs._explained import Lazy as Lazy
from relprop.jobs._explained import load as load
from relprop.jobs._job import explain as explain
from relprop.jobs._ray import RayExplainer as RayExplainer
from relprop.jobs._reductions import MeanPerClass as MeanPerClass
from relprop.jobs._reductions import Reduction as Reduction
from relprop.jobs._reductions import References as References
from relprop.jobs._reductions import Total as Total
from relprop.jobs._source import IMAGES as IMAGES
from relprop.jobs._source import read_image as read_image
from relprop.jobs._texts import explain_texts as explain_texts
from relprop.jobs._texts import text_of as text_of

__all__ = [
    "IMAGES",
    "Explained",
    "Lazy",
    "MeanPerClass",
    "Reduction",
    "RayExplainer",
    "References",
    "Total",
    "explain",
    "explain_texts",
    "load",
    "read_image",
    "text_of",
]
