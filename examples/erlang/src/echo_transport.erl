%% How a connection reaches one address: the behaviour GrpcLb.Transport.
-module(echo_transport).
-behaviour('Elixir.GrpcLb.Transport').

-export([open/2, close/1]).
-export([call/2]).

open(#{ip := Ip, port := Port}, Timeout) ->
    gen_tcp:connect(Ip, Port, [binary, {packet, line}, {active, false}], Timeout).

close(Socket) ->
    gen_tcp:close(Socket).

%% One call at a time on a socket: enough for an example.
call(Socket, Line) ->
    case gen_tcp:send(Socket, [Line, $\n]) of
        ok -> gen_tcp:recv(Socket, 0, 5000);
        Error -> Error
    end.
