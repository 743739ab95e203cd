"""The replay server."""

import pathlib

import ray

from replay.config import ReplayConfig


class ReplayServer:
    """Keeps transitions: one Reverb server with one table.

    Meant to live in a process of its own (a Ray actor); everybody else connects to
    `address()` through `replay.client`.

    Args:
        config: capacity, warm-up and update-to-data ratio.
        proprioception_shape: frames, and numbers in a frame.
        action_dim: numbers in an action.
        folder: for Reverb's own files; made if missing.
    """

    def __init__(
        self,
        config: ReplayConfig,
        proprioception_shape: tuple[int, int],
        action_dim: int,
        folder: pathlib.Path,
    ):
        # Reverb brings all of TensorFlow: seconds and 660 MB, for this process only.
        import reverb

        from replay.tables import TABLE, table

        folder.mkdir(parents=True, exist_ok=True)
        self._table = TABLE
        self._server = reverb.Server(
            [table(config, proprioception_shape, action_dim)],
            # Reverb's default is a temporary folder that it never removes.
            checkpointer=reverb.platform.checkpointers_lib.DefaultCheckpointer(str(folder)),
        )
        self._client = reverb.Client(f"localhost:{self._server.port}")

    def address(self) -> str:
        """Where clients find it, "host:port"."""
        return f"{ray.util.get_node_ip_address()}:{self._server.port}"

    def counts(self) -> dict[str, int]:
        """Transitions in the table now, ever inserted, and ever sampled."""
        table = self._client.server_info(timeout=10)[self._table]
        limiter = table.rate_limiter_info
        return {
            "size": table.current_size,
            "inserted": limiter.insert_stats.completed,
            "sampled": limiter.sample_stats.completed,
        }

    def stop(self) -> None:
        """Ends the server; blocked writers and samplers get an error."""
        self._server.stop()
