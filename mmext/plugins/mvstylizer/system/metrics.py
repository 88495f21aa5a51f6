"""Prometheus metrics of the processes, one registry for each so that tests do not share them."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """Base: a registry and its endpoint."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

    def serve(self, host: str, port: int) -> int:
        """Serve ``/metrics`` in a thread; return the port (``port`` 0: any free one)."""
        server, _ = start_http_server(port, host, registry=self.registry)
        return server.server_port

    def value(self, name: str, **labels: str) -> float:
        """Value of a sample now; 0 where there is none."""
        return self.registry.get_sample_value(name, labels) or 0.0


class EdgeMetrics(Metrics):
    """What an edge counts."""

    def __init__(self) -> None:
        super().__init__()
        registry = self.registry
        self.calls_refused = Counter(
            'mvst_calls_refused', 'Calls refused before decoding', ['reason'], registry=registry
        )
        self.sessions = Gauge('mvst_sessions', 'Open sessions', registry=registry)
        self.queue = Gauge('mvst_queue', 'Keys that wait for a worker', registry=registry)
        self.accepted = Counter('mvst_keys_accepted', 'Keys accepted', registry=registry)
        self.answered = Counter(
            'mvst_keys_answered', 'Accepted keys answered', ['answer'], registry=registry
        )
        self.refused = Counter(
            'mvst_keys_refused', 'Keys refused at once', ['reason'], registry=registry
        )
        self.decoded = Counter('mvst_pictures_decoded', 'Pictures decoded', registry=registry)
        self.bytes = Counter('mvst_bytes', 'Picture bytes', ['direction'], registry=registry)
        self.queue_seconds = Histogram(
            'mvst_queue_seconds', 'Wait for a worker', buckets=_SECONDS, registry=registry
        )
        self.stylize_seconds = Histogram(
            'mvst_stylize_seconds', 'Decode, stylise, encode', buckets=_SECONDS, registry=registry
        )
        self.cut = Counter('mvst_sessions_cut', 'Sessions ended by us', ['why'], registry=registry)
        self.swaps = Counter('mvst_model_swaps', 'Model changes at cuts', registry=registry)
        self.model = Gauge('mvst_model_version', 'Newest model here', registry=registry)
        self.collected = Gauge('mvst_collected_frames', 'Frames kept now', registry=registry)
        self.cloud_failures = Counter(
            'mvst_cloud_failures', 'Failed calls to the cloud', registry=registry
        )


class CloudMetrics(Metrics):
    """What the cloud counts."""

    def __init__(self) -> None:
        super().__init__()
        registry = self.registry
        self.calls_refused = Counter(
            'mvst_calls_refused', 'Calls refused before decoding', ['reason'], registry=registry
        )
        self.enrolled = Counter('mvst_enrolled', 'Tokens issued', ['role'], registry=registry)
        self.model = Gauge('mvst_model_version', 'Published model', registry=registry)
        self.rounds = Counter(
            'mvst_rounds', 'Federated rounds by outcome', ['outcome'], registry=registry
        )
        self.updates = Counter(
            'mvst_updates', 'Updates of edges by outcome', ['outcome'], registry=registry
        )
        self.held_out = Gauge('mvst_held_out', 'Held-out score of the model', registry=registry)
