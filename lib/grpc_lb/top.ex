defmodule GrpcLb.Top do
  # The live table of `GrpcLb.top/1`: looks at a balancer once an interval, and does what keys say.
  @moduledoc false

  alias GrpcLb.Look.{Sample, Terminal}
  alias GrpcLb.{Native, Options, Text}
  alias GrpcLb.Top.{Keyboard, View}

  @timeout_ms 5_000

  @options [
    node: [
      type: {:or, {:reader, "the name of a node", &__MODULE__.node_name/1}, nil},
      default: nil,
      doc: "the node whose balancers are shown; `nil` is this one. It has to have `:grpc_lb`."
    ],
    interval: [
      type: {:integer, from: 100, to: 60_000},
      default: 1_000,
      doc: "the time in milliseconds from one look to the next."
    ]
  ]
  @prepared Options.prepare(@options)

  @doc "The options in Markdown."
  @spec docs() :: String.t()
  def docs, do: Options.docs(@options)

  @doc "Reads the name of a node."
  @spec node_name(term()) :: {:ok, node()} | :error
  def node_name(name) do
    if is_atom(name) and String.contains?(Atom.to_string(name), "@"),
      do: {:ok, name},
      else: :error
  end

  @doc "Shows it until the user quits, or once where there is no terminal."
  @spec run(reference() | keyword()) :: :ok | {:error, why :: String.t()}
  def run(balancer) when is_reference(balancer) do
    %{number: number} = Native.summary(balancer)
    show(View.of(balancer, number), @prepared.defaults.interval)
  end

  def run(opts) when is_list(opts) do
    options = options!(opts)
    show(View.new(options.node || node()), options.interval)
  end

  def run(other) do
    raise ArgumentError,
          "argument 1 must be a balancer, a view of one, or options, got: #{Text.show(other)}; " <>
            "without a balancer those of the node are listed, by name"
  end

  @doc "Options of `run/1`, or an error."
  @spec options!(keyword()) :: map()
  def options!(opts), do: Options.validate!(opts, @prepared, "top/1")

  # Without a first look there is nothing to wait for.
  defp show(view, interval) do
    case look(view) do
      %{error: why} when why != nil -> {:error, why}
      view -> if(Terminal.there?(), do: live(view, interval), else: once(view, interval))
    end
  end

  defp live(view, interval) do
    keyboard = Keyboard.open()

    try do
      Terminal.write(Terminal.enter(keyboard.mode))
      loop(view, keyboard, interval)
    after
      Terminal.write(Terminal.leave(keyboard.mode))
      Keyboard.close(keyboard)
    end
  end

  defp loop(view, keyboard, interval) do
    {columns, lines} = Terminal.size()
    # The cursor is in the last line.
    screen = View.lines(view, {columns, lines - 1}, keyboard.mode)
    Terminal.write(Terminal.screen(screen))
    await(view, keyboard, System.monotonic_time(:millisecond) + interval, interval)
  end

  defp await(view, %{reader: reader} = keyboard, due, interval) do
    receive do
      {^reader, :closed} ->
        :ok

      {^reader, keys} ->
        case press(view, keys) do
          :quit ->
            :ok

          view ->
            Keyboard.more(keyboard)
            # What was picked is shown at once.
            view = if View.needs_look?(view), do: look(view), else: view
            loop(view, keyboard, interval)
        end
    after
      max(due - System.monotonic_time(:millisecond), 0) ->
        loop(if(view.paused, do: view, else: look(view)), keyboard, interval)
    end
  end

  defp press(view, keys) do
    Enum.reduce_while(keys, view, fn key, view ->
      case View.press(view, key) do
        :quit -> {:halt, :quit}
        view -> {:cont, view}
      end
    end)
  end

  # Two looks, since what happens in a second is between them.
  defp once(view, interval) do
    view =
      if view.now do
        Process.sleep(interval)
        look(view)
      else
        view
      end

    {columns, _lines} = Terminal.size()
    Terminal.write(for line <- View.lines(view, {columns, :all}, :none), do: [line, ?\n])
  end

  defp look(%View{chosen: nil} = view) do
    case ask(view.node, :list, []) do
      {:ok, list} -> list |> View.listed(view) |> look_if_chosen()
      {:error, why} -> View.failed(view, why)
    end
  end

  defp look(%View{given: balancer} = view) when balancer != nil,
    do: View.sampled(view, Sample.of(balancer))

  defp look(view) do
    case ask(view.node, :take, [view.chosen]) do
      {:ok, {:ok, sample}} ->
        View.sampled(view, sample)

      {:ok, :error} ->
        View.failed(view, "balancer #{view.chosen} has gone; b lists those that live")

      {:error, why} ->
        View.failed(view, why)
    end
  end

  defp look_if_chosen(%View{chosen: nil} = view), do: view
  defp look_if_chosen(view), do: look(view)

  defp ask(node, function, arguments) when node == node(),
    do: {:ok, apply(Sample, function, arguments)}

  defp ask(node, function, arguments) do
    {:ok, :erpc.call(node, Sample, function, arguments, @timeout_ms)}
  catch
    :error, {:erpc, :noconnection} ->
      {:error, "no connection to #{node}"}

    :error, {:erpc, :timeout} ->
      {:error, "#{node} does not answer"}

    :error, {:exception, :undef, _stack} ->
      {:error, "#{node} has no grpc_lb, or one without this table"}

    _kind, reason ->
      {:error, "#{node} cannot say: #{Text.show(reason)}"}
  end
end
