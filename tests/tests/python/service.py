"""A gRPC service of Google's own library: says its name, in every one of gRPC's four ways.

Usage: service.py ADDRESS VERSION [AGE]. Messages are plain bytes; a client's `fail` is answered with a status alone,
and `hang` not at all. SIGTERM ends it when what is under way is through. It asks clients to leave connections that are older than AGE ms.
"""

import signal
import sys
import threading
from concurrent import futures

import grpc

ADDRESS, VERSION = sys.argv[1], sys.argv[2].encode()
OPTIONS = [("grpc.so_reuseport", 0)] + [("grpc.max_connection_age_ms", int(age)) for age in sys.argv[3:]]


def unary(request, context):
    if request == b"fail":
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, VERSION.decode())
    if request == b"hang":
        over = threading.Event()
        context.add_callback(over.set)
        print("hanging", flush=True)
        over.wait()
        print("given up", flush=True)
    context.send_initial_metadata((("x-version", VERSION.decode()),))
    return VERSION + b" " + request


def server_streaming(request, context):
    for number in range(int(request)):
        yield VERSION + b" %d" % number


def client_streaming(requests, context):
    return VERSION + b" %d" % sum(len(request) for request in requests)


def both_ways(requests, context):
    for request in requests:
        yield VERSION + b" " + request


# Before any thread begins, so that it waits in all of them.
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
server = grpc.server(futures.ThreadPoolExecutor(max_workers=32), options=OPTIONS)
handlers = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "ServerStreaming": grpc.unary_stream_rpc_method_handler(server_streaming),
    "ClientStreaming": grpc.stream_unary_rpc_method_handler(client_streaming),
    "BothWays": grpc.stream_stream_rpc_method_handler(both_ways),
}
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("redir.Test", handlers),))
if not server.add_insecure_port(ADDRESS):
    sys.exit(f"cannot listen on {ADDRESS}")
server.start()
print("serving", flush=True)
signal.sigwait([signal.SIGTERM])
server.stop(grace=20).wait()
