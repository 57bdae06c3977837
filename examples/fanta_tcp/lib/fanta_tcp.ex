defmodule FantaTCP do
  @moduledoc """
  A pool of connections to a FantaTCP server, shared by all who ask.

      children = [
        {FantaTCP, name: MyFanta, port: 4001, size: 10}
      ]

      {:ok, {connection, "ORANGE"}} = FantaTCP.request(MyFanta, "orange")

  The pool is a `GrpcLb.Pool` whose workers are `FantaTCP.Client` processes, one for each
  connection. This module is what its users see: the child of a supervisor, and a request. It runs no
  process of its own.
  """

  @typedoc "The server's number of the connection that carried the request, and the answer."
  @type answer :: {connection :: pos_integer(), text :: String.t()}

  @doc """
  The pool as a child of a supervisor.

  ## Options

    * `:name` - an atom that names the pool. Required.
    * `:port` - where the server listens, on this machine. Required.
    * `:size` - the number of connections, by default 5
    * `:policy` - how a connection is chosen, by default `:round_robin`
    * `:retry_ms` - the pauses between attempts to connect, see `FantaTCP.Client`
  """
  @spec child_spec(keyword()) :: Supervisor.child_spec()
  def child_spec(opts) do
    {pool, client} = Keyword.split(opts, [:name, :size, :policy])
    client = [pool: Keyword.fetch!(pool, :name)] ++ client

    [size: 5, policy: :round_robin]
    |> Keyword.merge(pool)
    |> Keyword.put(:worker, {FantaTCP.Client, client})
    |> GrpcLb.Pool.child_spec()
  end

  @doc """
  Asks the server to put `text` into upper case.

    * `{:ok, {connection, text}}`
    * `{:error, :disconnected}` - the connection was lost before the answer came
    * `{:error, :no_backends}` - no connection is up
    * `{:error, :not_running}` - there is no such pool
    * `{:error, {:exit, reason}}` - the client died, or did not answer in time

  The server works on it for `:wait_ms`, by default 0. The caller waits for `:timeout` milliseconds, by
  default 5,000.
  """
  @spec request(atom(), String.t(), keyword()) :: {:ok, answer()} | {:error, term()}
  def request(pool, text, opts \\ []) do
    request = {:request, text, opts[:wait_ms] || 0}

    GrpcLb.Pool.call(pool, request, opts[:timeout] || 5_000)
  end
end
