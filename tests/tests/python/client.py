"""A gRPC client of Google's own library: all four ways at once on one connection, half of the calls with a header.

Usage: client.py ADDRESS ROUNDS. `x-user: alice` must be answered by `blue`, everything else by `green`.
"""

import queue
import sys
from concurrent import futures

import grpc

ADDRESS, ROUNDS = sys.argv[1], int(sys.argv[2])
WHO = [("alice", b"blue"), ("bob", b"green")]

channel = grpc.insecure_channel(ADDRESS, options=[("grpc.enable_retries", 0)])
grpc.channel_ready_future(channel).result(timeout=20)
unary = channel.unary_unary("/redir.Test/Unary")
server_streaming = channel.unary_stream("/redir.Test/ServerStreaming")
client_streaming = channel.stream_unary("/redir.Test/ClientStreaming")
both_ways = channel.stream_stream("/redir.Test/BothWays")


def check(what, got, wanted):
    if got != wanted:
        raise AssertionError(f"{what}: {got!r} instead of {wanted!r}")


def one(number):
    user, version = WHO[number % 2]
    call = {"metadata": (("x-user", user),), "timeout": 20}
    answer, state = unary.with_call(b"x" * number, **call)
    check("unary", answer, version + b" " + b"x" * number)
    check("metadata", dict(state.initial_metadata()).get("x-version"), version.decode())
    try:
        unary(b"fail", **call)
        raise AssertionError("no failure")
    except grpc.RpcError as error:
        check("status", error.code(), grpc.StatusCode.FAILED_PRECONDITION)
        check("details", error.details(), version.decode())
    stream = list(server_streaming(b"100", **call))
    check("server streaming", stream, [version + b" %d" % index for index in range(100)])
    pieces = [b"y" * 10_000] * 50
    check("client streaming", client_streaming(iter(pieces), **call), version + b" 500000")
    # One message there, one back, in turn.
    requests = queue.Queue()
    answers = both_ways(iter(requests.get, None), **call)
    for index in range(20):
        requests.put(b"%d" % index)
        check("both ways", next(answers), version + b" %d" % index)
    requests.put(None)
    check("the end", list(answers), [])
    # And one that is given up.
    given_up = both_ways(iter(queue.Queue().get, None), **call)
    given_up.cancel()


with futures.ThreadPoolExecutor(max_workers=16) as pool:
    for result in [pool.submit(one, number) for number in range(ROUNDS)]:
        result.result()
print(f"{ROUNDS} rounds", flush=True)
