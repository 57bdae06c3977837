defmodule GrpcLb.Test.Telemetry do
  @moduledoc """
  Stands in for the `:telemetry` package, which a package without dependencies does not have. The
  module is made when it is installed and exists in this VM only, so that a VM that a test starts is
  one without it.
  """

  @table __MODULE__

  @doc "Makes the module `:telemetry`."
  def install do
    test = self()

    holder =
      spawn(fn ->
        :ets.new(@table, [:named_table, :public, :set])
        send(test, {:made, self()})
        Process.sleep(:infinity)
      end)

    receive do
      {:made, ^holder} -> :ok
    end

    {:module, :telemetry, _beam, _last} =
      Module.create(:telemetry, functions(), Macro.Env.location(__ENV__))

    :ok
  end

  @doc "Attaches a handler to every event that sends `{:event, name, measurements, metadata}` here."
  def attach_all do
    test = self()
    send_it = fn name, measured, metadata, _ -> send(test, {:event, name, measured, metadata}) end
    apply(:telemetry, :attach, [{__MODULE__, test}, :_, send_it, nil])
  end

  # As in the package: handlers run in the process that emits. One addition: `:_` instead of a name
  # attaches to every event, also to those that nobody documented.
  defp functions do
    quote do
      def attach(id, event, handler, config) do
        if :ets.insert_new(unquote(@table), {id, event, handler, config}),
          do: :ok,
          else: {:error, :already_exists}
      end

      def attach_many(id, events, handler, config) do
        for event <- events, do: :ok = attach({id, event}, event, handler, config)
        :ok
      end

      def detach(id) do
        for key <- [id, {id, :_}], do: :ets.match_delete(unquote(@table), {key, :_, :_, :_})
        :ok
      end

      def execute(event, measurements, metadata) do
        for {_id, name, handler, config} <- :ets.tab2list(unquote(@table)),
            name in [:_, event] do
          handler.(event, measurements, metadata, config)
        end

        :ok
      end
    end
  end
end
