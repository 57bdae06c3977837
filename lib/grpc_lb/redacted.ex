defmodule GrpcLb.Redacted do
  @moduledoc false
  # What crash reports show of a process that has something to hide: `use GrpcLb.Redacted, show: [...]`
  # in a GenServer names the fields of its state that may be seen. Of a message only the tag is.

  defmacro __using__(show: fields) do
    quote do
      # A callback that Elixir knows since 1.17, and OTP since 25.
      if {:format_status, 1} in GenServer.behaviour_info(:callbacks), do: @impl(true)
      @doc false
      def format_status(status), do: GrpcLb.Redacted.format_status(status, unquote(fields))
    end
  end

  @doc """
  See `c::gen_server.format_status/1`.

      iex> status = %{state: %{name: :api, value: "secret"}, message: {:up, "secret"}, reason: :killed}
      iex> GrpcLb.Redacted.format_status(status, [:name])
      %{state: %{name: :api}, message: :up, reason: :killed}
  """
  @spec format_status(map(), [atom()]) :: map()
  def format_status(status, fields) do
    status
    |> change(:state, &Map.take(&1, fields))
    |> change(:message, &tag/1)
    |> change(:log, fn _events -> [] end)
  end

  defp change(status, key, fun) when is_map_key(status, key), do: Map.update!(status, key, fun)
  defp change(status, _key, _fun), do: status

  defp tag({:"$gen_cast", message}), do: tag(message)
  defp tag({:"$gen_call", _from, message}), do: tag(message)
  defp tag(message) when is_tuple(message) and tuple_size(message) > 0, do: elem(message, 0)
  defp tag(message) when is_atom(message), do: message
  defp tag(_other), do: :a_message
end
