defmodule GrpcLbElixirGrpc.TransportsTest do
  # The transports of guides/transports.md whose clients are at hand here.
  use ExUnit.Case, async: false

  import GrpcLb.Test.Eventually

  alias GrpcLb.Connection

  Code.require_file("../../../test/support/guide.ex", __DIR__)
  @guide Path.expand("../../../guides/transports.md", __DIR__)

  defmodule Hello do
    def init(request, number),
      do: {:ok, :cowboy_req.reply(200, %{}, "hello #{number}", request), number}
  end

  for {client, module} <- [gun: MyApp.Gun, mint: MyApp.Mint] do
    test "#{client}: calls reach every server, and one that goes is out, and back" do
      [block] =
        Enum.filter(
          GrpcLb.Test.Guide.blocks(@guide),
          &(&1.code =~ "defmodule #{inspect(unquote(module))} do")
        )

      unless Code.ensure_loaded?(unquote(module)), do: GrpcLb.Test.Guide.run([block], @guide)

      ports = for number <- 1..2, do: serve(number, 0)
      target = "ipv4:" <> Enum.map_join(ports, ",", &"127.0.0.1:#{&1}")
      opts = [transport: unquote(module), backoff: [initial: 10, max: 10]]
      {:ok, lb} = Connection.connect(target, opts)
      eventually(fn -> answers(lb) == ["hello 1", "hello 2"] end)

      :ok = :cowboy.stop_listener({__MODULE__, 1})
      eventually(fn -> answers(lb) == ["hello 2"] end)
      serve(1, hd(ports))
      eventually(fn -> answers(lb) == ["hello 1", "hello 2"] end)

      Connection.disconnect(lb)
      for number <- 1..2, do: :ok = :cowboy.stop_listener({__MODULE__, number})
    end

    defp unquote(:"get_#{client}")(value), do: apply(unquote(module), :get, [value, "/"])
  end

  defp answers(lb) do
    get = fn value -> if gun?(value), do: get_gun(value), else: get_mint(value) end

    for(_ <- 1..8, do: answer(fn -> Connection.run(lb, get) end)) |> Enum.uniq() |> Enum.sort()
  end

  defp gun?(pid), do: match?({:gun, _, _}, :proc_lib.translate_initial_call(pid))

  defp answer(fun) do
    with {:ok, 200, body} <- fun.(), do: body
  catch
    :exit, _reason -> :exit
  end

  defp serve(number, port) do
    routes = :cowboy_router.compile([{:_, [{:_, Hello, number}]}])

    {:ok, _pid} =
      :cowboy.start_clear({__MODULE__, number}, [ip: {127, 0, 0, 1}, port: port], %{
        env: %{dispatch: routes}
      })

    :ranch.get_port({__MODULE__, number})
  end
end
