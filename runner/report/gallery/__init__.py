"""The gallery: one HTML file that shows every image that a job wants, works without a network, and sends nothing.

Owns what is on the page and how it gets there. Refuses to write files: whoever asks gets the page's text in pieces.
"""

from runner.report.gallery.links import FileLinks, Links
from runner.report.gallery.page import page

__all__ = ["FileLinks", "Links", "page"]
