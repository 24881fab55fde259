"""Several clients on one node, which answer one message of Flower together."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from logging import getLogger

from flwr.app import Context, Error, Message, RecordDict, UserConfig
from flwr.clientapp.typing import ClientAppCallable
from flwr.common.constant import ErrorCode

from ..errors import FlowerCompressError
from ..links import share_decoding
from ..wire.building import addressed, new_record_dict, new_reply
from ..wire.bundle import (
    Request,
    answer_content,
    find_request,
    where_content,
)
from .node_state import NodeState

__all__ = ["ManyClientsMod"]

_log = getLogger("flwr")
_PARTITION, _PARTITIONS = "partition-id", "num-partitions"
_SHARED_BYTES = 1 << 28


class ManyClientsMod:
    """Let several clients run on one node, one after the other.

    To be used with :func:`~flower_compress.strategies.many_clients` at the server,
    which puts their messages into one. What is behind this mod sees one client at a
    time, as if each had a node of its own: with its own node id, ``partition-id`` and
    ``num-partitions``, and with a ``Context.state`` of its own, kept in the node's.
    What a client raises is the error of its own reply, and leaves its state as it was.

    Of K clients a node, the node of ``partition-id`` p has numbers p K, ...,
    p K + K - 1; where that is a name, "p/0", ..., "p/(K - 1)". On a node without one,
    a client has nothing but its node id.

    Messages that are no bundle pass untouched.

    Notes
    -----
    Put it first in the list of the app's mods.

    Examples
    --------
    >>> from flwr.clientapp import ClientApp
    >>> from flower_compress import CompressionMod, ManyClientsMod
    >>> app = ClientApp(mods=[ManyClientsMod(), CompressionMod()])
    """

    def __call__(
        self, msg: Message, context: Context, call_next: ClientAppCallable
    ) -> Message:
        """Handle one message."""
        try:
            request = find_request(msg.content)
        except KeyError:
            return call_next(msg, context)
        except FlowerCompressError as error:
            reason = f"{type(error).__name__}: {error}"
            return Message(
                Error(ErrorCode.MOD_FAILED_PRECONDITION, reason), reply_to=msg
            )
        if request is None:
            partition = context.node_config.get(_PARTITION)
            return new_reply(msg, where_content(partition))
        states = NodeState(context.state)
        with share_decoding(_SHARED_BYTES):
            answers = [
                _answer(msg, node_id, content, client, states, call_next)
                for node_id, content, client in _clients(request, context)
            ]
        return new_reply(msg, answer_content(answers))


def _answer(
    msg: Message,
    node_id: int,
    content: RecordDict,
    client: Context,
    states: NodeState,
    call_next: ClientAppCallable,
) -> RecordDict | Error:
    """Return what one client answers; keep its state, unless it raises."""
    key = str(client.node_config.get(_PARTITION, node_id))
    client.state = states.read(key)
    try:
        reply = call_next(addressed(msg, node_id, content), client)
        answer = reply.error if reply.has_error() else reply.content
    except Exception as error:  # noqa: BLE001 - Flower reports any, so do we
        _log.error("client %s: %s", key, traceback.format_exc())
        reason = f"{type(error)}:<'{error}'>"
        return Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason)
    states.keep(key, client.state)
    return answer


def _clients(
    request: Request, context: Context
) -> Iterator[tuple[int, RecordDict, Context]]:
    """Yield the clients that are asked, each with a context that has no state yet."""
    config = {
        key: value
        for key, value in context.node_config.items()
        if key not in (_PARTITION, _PARTITIONS)
    }
    where = context.node_config.get(_PARTITION)
    total = request.total
    if not total and _PARTITIONS in context.node_config:
        total = request.per_node * int(context.node_config[_PARTITIONS])
    if total:
        config[_PARTITIONS] = total
    for node_id, number, content in zip(
        request.nodes, request.numbers, request.contents, strict=True
    ):
        own = {**config}
        if isinstance(where, int):
            own[_PARTITION] = where * request.per_node + number
        elif where is not None:
            own[_PARTITION] = f"{where}/{number}"
        yield (
            node_id,
            content,
            Context(
                run_id=context.run_id,
                node_id=node_id,
                node_config=UserConfig(own),
                state=new_record_dict({}),
                run_config=UserConfig(context.run_config),
            ),
        )
