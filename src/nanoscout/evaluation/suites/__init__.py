"""Question sets to evaluate on, by name."""

from nanoscout.evaluation.suites.catalogue import SUITES, open_suite
from nanoscout.evaluation.suites.evidence import check_evidence
from nanoscout.evaluation.suites.suite import Suite

__all__ = ["SUITES", "Suite", "check_evidence", "open_suite"]
