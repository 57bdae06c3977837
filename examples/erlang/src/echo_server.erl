%% Answers every line with its number and the line.
-module(echo_server).

-export([start/1, stop/1]).

start(Number) ->
    {ok, Listening} =
        gen_tcp:listen(0, [binary, {packet, line}, {active, false}, {ip, {127, 0, 0, 1}}]),
    {ok, Port} = inet:port(Listening),
    Pid = spawn(fun() -> receive listening -> accept(Listening, Number) end end),
    ok = gen_tcp:controlling_process(Listening, Pid),
    Pid ! listening,
    {Pid, Port}.

%% Its connections end with it.
stop({Pid, _Port}) ->
    exit(Pid, kill).

accept(Listening, Number) ->
    {ok, Socket} = gen_tcp:accept(Listening),
    Pid = spawn_link(fun() -> receive accepted -> serve(Socket, Number) end end),
    ok = gen_tcp:controlling_process(Socket, Pid),
    Pid ! accepted,
    accept(Listening, Number).

serve(Socket, Number) ->
    case gen_tcp:recv(Socket, 0) of
        {ok, Line} ->
            ok = gen_tcp:send(Socket, [integer_to_binary(Number), $\s, Line]),
            serve(Socket, Number);
        {error, closed} ->
            ok
    end.
