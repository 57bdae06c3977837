%% grpc_lb from Erlang: a balancer over anything, and a connection over sockets.
-module(echo_lb).

-export([main/1, balancer/0, connection/0]).

main(_Arguments) ->
    {ok, _Started} = application:ensure_all_started(grpc_lb),
    io:format("picked: ~p~n", [balancer()]),
    io:format("answered: ~p~n", [connection()]).

%% Backends are {Id, Value} or {Id, Value, Options}; options are property lists.
balancer() ->
    Policy = {weighted_round_robin, [{cursor, shared}]},
    {ok, Lb} = 'Elixir.GrpcLb':new(Policy, [{a, 1, [{weight, 3}]}, {b, 2}]),
    Picked = [begin {ok, Value} = 'Elixir.GrpcLb':pick(Lb), Value end || _ <- lists:seq(1, 4)],
    {ok, #{removed := 1}} = 'Elixir.GrpcLb':remove(Lb, [a]),
    {ok, 2} = 'Elixir.GrpcLb':pick(Lb),
    ok = 'Elixir.GrpcLb':close(Lb),
    {error, closed} = 'Elixir.GrpcLb':pick(Lb),
    lists:sort(Picked).

%% Strings for Elixir are binaries.
connection() ->
    Servers = [echo_server:start(Number) || Number <- [1, 2]],
    Addresses = ["127.0.0.1:" ++ integer_to_list(Port) || {_Pid, Port} <- Servers],
    Target = iolist_to_binary(["ipv4:", lists:join(",", Addresses)]),
    Options = [
        {transport, {echo_transport, 5000}},
        {policy, round_robin},
        {outlier_detection, [{consecutive_failures, 5}]}
    ],
    {ok, Lb} = 'Elixir.GrpcLb.Connection':connect(Target, Options),
    Call = fun(Socket) -> echo_transport:call(Socket, <<"hello">>) end,
    %% run checks out a backend, calls the function with it, and says how that went.
    Run = fun() -> 'Elixir.GrpcLb.Connection':run(Lb, Call) end,
    Answers = answers(Run, []),
    ok = 'Elixir.GrpcLb.Connection':disconnect(Lb),
    lists:foreach(fun echo_server:stop/1, Servers),
    lists:sort(Answers).

%% One of each server: the second socket may open a moment after the first call.
answers(_Run, [_One, _Other] = Answers) ->
    Answers;
answers(Run, Answers) ->
    {ok, Line} = Run(),
    answers(Run, lists:usort([Line | Answers])).
