defmodule GrpcLb.Test.Logs do
  @moduledoc "Sends a test what is logged, as Erlang's `:logger` has it."

  @doc "Attaches the calling process: it is sent `{:log, event}` from now on. Returns what `detach/1` takes."
  @spec attach() :: atom()
  def attach do
    # Others may have had as much logged as is in ten seconds: what was left out is logged now, and a new window opens.
    send(GrpcLb.Herald, :window_over)
    _state = :sys.get_state(GrpcLb.Herald)
    id = :"#{__MODULE__}#{System.unique_integer([:positive])}"
    :ok = :logger.add_handler(id, __MODULE__, %{config: self()})
    id
  end

  @spec detach(atom()) :: :ok
  def detach(id), do: :logger.remove_handler(id)

  @doc false
  def log(event, %{config: test}), do: send(test, {:log, event})

  @doc "What has come so far."
  @spec flush() :: [:logger.log_event()]
  def flush do
    receive do
      {:log, event} -> [event | flush()]
    after
      0 -> []
    end
  end

  @doc "An event in Erlang's words, in Elixir's with `handle_sasl_reports: true`, and as it is."
  @spec texts(:logger.log_event()) :: [String.t()]
  def texts(%{msg: msg, level: level} = event) do
    erlang = :logger_formatter.format(event, %{single_line: false})
    as_it_is = inspect(event, limit: :infinity, printable_limit: :infinity)
    # As a struct that is shown whole, too.
    raw = :io_lib.format("~0p", [event])
    Enum.map([erlang, raw, as_it_is | elixir(level, msg)], &IO.chardata_to_string/1)
  end

  defp elixir(level, {:report, %{label: _label} = report}) do
    # The package does not depend on Elixir's logger.
    arguments = [:debug, level, :report, {:logger, report}]

    case apply(Logger.Translator, :translate, arguments) do
      {:ok, text, _metadata} -> [text]
      {:ok, text} -> [text]
      _none_or_skipped -> []
    end
  end

  defp elixir(_level, _other), do: []
end
