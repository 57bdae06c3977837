defmodule Mix.Tasks.GrpcLb.Top do
  @shortdoc "Shows the balancers of a running node as a live table"

  @moduledoc """
  Shows the balancers of a running node as a live table, see `GrpcLb.top/1`.

      mix grpc_lb.top --node shop@10.0.0.7 --cookie SECRET

  Keys count as they are pressed: `q` quits, `p` stands still, `s` sorts, `b` lists balancers. Where the
  output is no terminal the table is printed once.

  ## Options

    * `--node` - the name of the node, as it was given to `--name` or `--sname`; without a host it is one
      of this machine. Required.
    * `--cookie` - its cookie; by default that of this user's `~/.erlang.cookie`
    * `--interval` - the time in milliseconds from one look to the next, 1000 by default

  It connects as a hidden node that nobody can connect to, starts no application, and needs nothing of
  the other node than `:grpc_lb`. Fails when it cannot connect, or when that node has none.
  """

  use Mix.Task

  @switches [node: :string, cookie: :string, interval: :integer]

  @impl true
  def run(arguments) do
    opts = options!(arguments)
    Mix.Task.run("app.config")
    shown = [node: node!(opts[:node])] ++ Keyword.take(opts, [:interval])
    check!(shown)
    connect!(shown[:node], opts[:cookie])

    with {:error, why} <- GrpcLb.top(shown), do: Mix.raise(why)
  end

  # Before it connects.
  defp check!(shown) do
    GrpcLb.Top.options!(shown)
  rescue
    error in ArgumentError -> Mix.raise(error.message)
  end

  defp options!(arguments) do
    case OptionParser.parse(arguments, strict: @switches) do
      {opts, [], []} ->
        unless opts[:node],
          do: Mix.raise("mix grpc_lb.top needs --node, such as --node shop@10.0.0.7")

        opts

      {_opts, [argument | _rest], []} ->
        Mix.raise("mix grpc_lb.top takes no argument, got: #{argument}")

      {_opts, _arguments, [{option, nil} | _rest]} ->
        Mix.raise("mix grpc_lb.top has no option #{option}, or it needs a value")

      {_opts, _arguments, [{option, value} | _rest]} ->
        Mix.raise("option #{option} of mix grpc_lb.top cannot be #{value}")
    end
  end

  defp node!(text) do
    case String.split(text, "@") do
      [name] when name != "" -> :"#{name}@#{this_host()}"
      [name, host] when name != "" and host != "" -> String.to_atom(text)
      _malformed -> Mix.raise("option --node must be the name of a node, got: #{text}")
    end
  end

  defp this_host do
    {:ok, host} = :inet.gethostname()
    host
  end

  # Without a port of its own, so that it needs no epmd here.
  defp connect!(node, cookie) do
    unless Node.alive?() do
      [_name, host] = node |> Atom.to_string() |> String.split("@")
      domain = if String.contains?(host, "."), do: :longnames, else: :shortnames
      options = %{name_domain: domain, dist_listen: false, hidden: true}

      case :net_kernel.start(own_name(domain), options) do
        {:ok, _pid} -> :ok
        {:error, reason} -> Mix.raise("this node cannot be distributed: #{inspect(reason)}")
      end
    end

    if cookie, do: Node.set_cookie(node, String.to_atom(cookie))

    unless :net_kernel.hidden_connect_node(node) do
      Mix.raise("cannot connect to #{node}: it is not there, or it has another cookie (--cookie)")
    end
  end

  defp own_name(domain) do
    host = if domain == :longnames, do: "127.0.0.1", else: this_host()
    :"grpc_lb_top_#{System.pid()}@#{host}"
  end
end
