"""What operators see of the predictor: `GET /metrics` for Prometheus, and one line of log a request.

Neither ever holds a text, a file name or a picture. The client library decides at its import between one process and
several (PROMETHEUS_MULTIPROC_DIR), so `handwriting.serving` imports this module in its workers alone.
"""

import json
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from flask import Flask, Response, g, request
from prometheus_client import (CollectorRegistry, Counter, Gauge, GCCollector, Histogram, PlatformCollector,
                               ProcessCollector)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.utils import INF, floatToGoString

from handwriting.layout import METRICS_FOLDER
from handwriting.profile import CONFIDENCES, WIDTHS, Profile, shares

if TYPE_CHECKING:
    from handwriting.ctc import Reading

log = logging.getLogger(__name__)

REQUEST_ID = re.compile(r"[\w.:/+=@-]{1,128}", re.ASCII)  # what a client's own id may be; it lands in the log
PROBES = {"/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"}  # asked for every few seconds
NO_ROUTE = "none"  # the label of every path that is no route: raw paths would be labels without end
SUMMED = ("process_cpu_seconds", "process_open_fds", "process_resident_memory_bytes", "process_virtual_memory_bytes")


class Metrics:
    """The metrics of one application, in a registry of their own.

    Attributes:
        exposed: What a scrape shows: this process, or all workers where they share a folder.
    """

    def __init__(self) -> None:
        own = CollectorRegistry()
        self.requests = Counter("handwriting_requests_total", "Requests answered", ["route", "status"], registry=own)
        self.errors = Counter("handwriting_errors_total", "Requests refused or failed", ["reason"], registry=own)
        self.seconds = Histogram("handwriting_request_seconds", "Seconds to answer", ["route"], registry=own)
        self.in_progress = Gauge("handwriting_requests_in_progress", "Requests being answered, probes left out",
                                 registry=own, multiprocess_mode="livesum")
        self.stored = Counter("handwriting_pictures_stored_total", "Users' pictures written to the bucket",
                              registry=own)
        self.lost = Counter("handwriting_pictures_lost_total", "Users' pictures that could not be kept", registry=own)
        self.upload_failures = Counter("handwriting_pictures_upload_failures_total",
                                       "Attempts to write users' pictures that failed and are made again", registry=own)
        self.waiting = Gauge("handwriting_pictures_waiting", "Users' pictures accepted and not yet written",
                             registry=own, multiprocess_mode="livesum")
        self.waiting_bytes = Gauge("handwriting_pictures_waiting_bytes", "Bytes of these on the local disk",
                                   registry=own, multiprocess_mode="livesum")
        self.oldest = Gauge("handwriting_pictures_oldest_seconds", "Seconds that the oldest of these waits",
                            registry=own, multiprocess_mode="livemax")
        self.confidence = Histogram("handwriting_confidence", "Confidence of each line that was read, 0 to 1",
                                    registry=own, buckets=CONFIDENCES)
        self.low = Counter("handwriting_low_confidence_total", "Lines read with low confidence, by the model's profile",
                           registry=own)
        self.width = Histogram("handwriting_line_width_px", "Width of each line that was read, at the model's height",
                               registry=own, buckets=WIDTHS)
        self.corrections = Counter("handwriting_corrections_total", "Corrections that people sent", registry=own)
        self.unknown = Counter("handwriting_corrections_unknown_total",
                               "Corrections with a character outside the model's alphabet", registry=own)
        self.trained = _TrainedOn(own)
        self.model = Gauge("handwriting_model_info", "1 for the version of the model that serves", ["version"],
                           registry=own, multiprocess_mode="livemax")
        self.exposed = _exposed(own)

    def count_readings(self, readings: "Sequence[Reading]", profile: Profile | None) -> None:
        """Takes what was read, and the profile of the model that did; without one no reading counts as low."""
        for reading in readings:
            self.confidence.observe(reading.confidence)
            self.width.observe(reading.width)
        if profile:
            self.low.inc(sum(reading.confidence <= profile.low for reading in readings))

    def count_correction(self, unknown: bool) -> None:
        """Takes a correction, and whether it has a character outside the model's alphabet."""
        self.corrections.inc()
        self.unknown.inc(unknown)

    def count_pictures(self, stored: int, lost: int, failures: int, waiting: int, size: int, oldest: float) -> None:
        """Takes what `UserPictures` reports: three changes, and what waits now, its bytes and the age of the oldest."""
        self.stored.inc(stored)
        self.lost.inc(lost)
        self.upload_failures.inc(failures)
        self.waiting.set(waiting)
        self.waiting_bytes.set(size)
        self.oldest.set(oldest)


class _TrainedOn:
    """What the model's profile says, in the bins and units of what is counted, for one expression to compare both."""

    def __init__(self, own: CollectorRegistry):
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"handwriting_trained_{name}", text, labels, registry=own, multiprocess_mode="livemax")

        self.share = gauge("share", "Share of validation lines read with low confidence, of labels with a character "
                                    "outside the model's alphabet, 0 to 1", "of")
        self.confidence = gauge("confidence", "Share of validation lines up to a confidence, 0 to 1", "le")
        self.width = gauge("line_width_px", "Share of training lines up to a width, 0 to 1", "le")

    def show(self, profile: Profile) -> None:
        """Sets all of them."""
        self.share.labels("low_confidence").set(profile.low_lines / sum(profile.confidences))
        self.share.labels("unknown").set(profile.unknown / max(1, profile.labels))
        for found, bounds, counts in ((self.confidence, CONFIDENCES, profile.confidences),
                                      (self.width, WIDTHS, profile.widths)):
            for bound, share in zip((*bounds, INF), shares(counts)):
                found.labels(floatToGoString(bound)).set(share)


def _exposed(own: CollectorRegistry) -> CollectorRegistry:
    """Returns the registry to show: the metrics' own, or one that adds up what all workers have written."""
    if folder := os.environ.get(METRICS_FOLDER):
        all_workers = CollectorRegistry()
        MultiProcessCollector(all_workers, folder)
        all_workers.register(Workers(Path(folder)))
        return all_workers
    ProcessCollector(registry=own)
    PlatformCollector(registry=own)
    GCCollector(registry=own)
    return own


class Workers(Collector):
    """CPU, memory and files of all workers together: the library's collector knows the one that answers only."""

    def __init__(self, folder: Path):
        self.folder = folder

    def collect(self) -> Iterator[Metric]:
        """Yields the sums over the live workers, which are those with a file of live gauges."""
        sums: dict[tuple[str, str], float] = {}
        for path in self.folder.glob("gauge_livesum_*.db"):
            for metric in _process(path.stem.rpartition("_")[2]).collect():
                key = metric.name, metric.documentation
                if metric.name in SUMMED:
                    sums[key] = sums.get(key, 0.0) + metric.samples[0].value
        for (name, documentation), value in sums.items():
            family = CounterMetricFamily if name == "process_cpu_seconds" else GaugeMetricFamily
            yield family(name, documentation, value=value)


def _process(pid: str) -> ProcessCollector:
    return ProcessCollector(pid=lambda: pid, registry=None)


class Monitor:
    """Counts, times and logs the requests of an application."""

    def __init__(self, metrics: Metrics, version: Callable[[], str], profile: Callable[[], Profile | None]):
        """Takes the metrics to count in, and what tells the model's version and profile."""
        self.metrics, self.version, self.profile = metrics, version, profile

    def watch(self, app: Flask) -> None:
        """Hooks into an application and gives it `GET /metrics`."""
        app.before_request(self._start)
        app.after_request(self._finish)
        app.teardown_request(self._end)
        app.add_url_rule("/metrics", "metrics", self.page)

    def page(self) -> Response:
        """`GET /metrics`: Prometheus's text form, which every scraper takes, whatever `Accept` says."""
        if version := self.version():
            self.metrics.model.labels(version).set(1)
        if profile := self.profile():
            self.metrics.trained.show(profile)
        return Response(generate_latest(self.metrics.exposed), content_type=CONTENT_TYPE_PLAIN_0_0_4)

    def _start(self) -> None:
        given = request.headers.get("X-Request-Id", "")
        g.request_id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        g.reason = None
        g.started = time.perf_counter()
        if _route() not in PROBES:
            self.metrics.in_progress.inc()

    def _finish(self, response: Response) -> Response:
        route, seconds = _route(), time.perf_counter() - g.started
        self.metrics.requests.labels(route, response.status_code).inc()
        self.metrics.seconds.labels(route).observe(seconds)
        if g.reason:
            self.metrics.errors.labels(g.reason).inc()
        response.headers["X-Request-Id"] = g.request_id
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "method": request.method, "route": route,
                "status": response.status_code, "ms": round(seconds * 1000, 1), "bytes": request.content_length or 0,
                "reason": g.reason, "version": self.version(), "id": g.request_id}
        log.log(logging.DEBUG if route in PROBES else logging.INFO, json.dumps(line))
        return response

    def _end(self, error: BaseException | None) -> None:
        if _route() not in PROBES:
            self.metrics.in_progress.dec()


def _route() -> str:
    return request.url_rule.rule if request.url_rule else NO_ROUTE


def log_to_stderr() -> None:
    """Sends the lines of requests to stderr as they are, without the time and level before all other messages."""
    log.addHandler(logging.StreamHandler())
    log.setLevel(logging.INFO)
    log.propagate = False
