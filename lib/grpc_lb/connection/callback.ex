defmodule GrpcLb.Connection.Callback do
  @moduledoc false

  @doc """
  Calls a function of a user's module. Whatever it does is returned.

      iex> GrpcLb.Connection.Callback.call(Integer, :parse, ["1"])
      {:ok, {1, ""}}

      iex> GrpcLb.Connection.Callback.call(Kernel, :throw, [:ball])
      {:error, {:thrown, :ball}}
  """
  @spec call(module(), atom(), [term()]) :: {:ok, term()} | {:error, reason}
        when reason: {:raised, Exception.t()} | {:thrown, term()} | {:exited, term()}
  def call(module, function, arguments) do
    {:ok, apply(module, function, arguments)}
  rescue
    exception -> {:error, {:raised, exception}}
  catch
    :throw, value -> {:error, {:thrown, value}}
    :exit, reason -> {:error, {:exited, reason}}
  end
end
