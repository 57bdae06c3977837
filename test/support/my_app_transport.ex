defmodule MyApp.Transport do
  @moduledoc "The transport of the examples in the documentation of `GrpcLb.Connection`."

  @behaviour GrpcLb.Transport

  @impl true
  def open(address, _opts), do: {:ok, "to " <> GrpcLb.Address.id(address)}

  @impl true
  def close(_value), do: :ok
end
