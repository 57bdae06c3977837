defmodule GrpcLb.Resolver.Static do
  @moduledoc """
  Resolves the targets that say their addresses themselves: `ipv4:`, `ipv6:`, `unix:`, `static:` and
  `{:static, list}`, see `GrpcLb.Target`.

  It has no options, and what it returns never changes.
  """

  @behaviour GrpcLb.Resolver

  alias GrpcLb.{Options, Target, Text}

  @impl true
  def validate!(target, opts) do
    Options.validate!(opts, [], __MODULE__)
    _addresses = addresses!(target)
    :ok
  end

  @doc """
  Returns the addresses of the target, in its order.

  Raises `ArgumentError` when the target is malformed, or of the scheme `dns`.

      iex> GrpcLb.Resolver.Static.resolve("unix:/run/app.sock", [])
      {:ok, %{addresses: [%GrpcLb.Address{ip: {:local, "/run/app.sock"}, port: 0}], ttl: :infinity}}
  """
  @impl true
  def resolve(target, _opts), do: {:ok, %{addresses: addresses!(target), ttl: :infinity}}

  defp addresses!(target) do
    case Target.parse!(target) do
      %Target{scheme: :dns} ->
        raise ArgumentError,
              "#{inspect(__MODULE__)} resolves no names, got the target: #{Text.show(target)}"

      %Target{addresses: addresses} ->
        addresses
    end
  end
end
