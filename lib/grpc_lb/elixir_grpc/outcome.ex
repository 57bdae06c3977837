defmodule GrpcLb.ElixirGrpc.Outcome do
  @moduledoc """
  What an error of elixir-grpc says of the server that the call went to.

  | status of the call | outcome |
  | --- | --- |
  | UNAVAILABLE, or the connection was lost | `{:error, {:transport, reason}}` |
  | UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, INTERNAL, DATA_LOSS | `{:error, reason}` |
  | CANCELLED, or the connection takes no more calls (HTTP/2's GOAWAY) | `:cancelled` |
  | any other: the server did its work | `:ok` |

  A failure of the transport takes the server out after one call, see `:consecutive_transport_failures`
  in `GrpcLb.new/3`; other failures take more.

  A lost connection has no status of its own: Gun's adapter makes INTERNAL of it and Mint's UNKNOWN, or
  no `GRPC.RPCError` at all. It is known by their words.
  """

  @outcomes %{
    1 => :cancelled,
    2 => {:error, :unknown},
    4 => {:error, :deadline_exceeded},
    8 => {:error, :resource_exhausted},
    13 => {:error, :internal},
    14 => {:error, {:transport, :unavailable}},
    15 => {:error, :data_loss}
  }

  # How Gun's adapter begins the message of a call on a connection that takes no more calls.
  @going_away [":stream_error: :closing", ":stream_error: {:goaway,"]

  # How the adapters of elixir-grpc begin the message of a call that no server has begun to serve:
  # Gun's, also of one that the server refused, and Mint's, of a request that could not be written.
  @unsent @going_away ++
            [
              ":stream_error: {:stream_error, :refused_stream,",
              ":stream_error: {:stream_error, :too_many_streams,",
              "error occurred while receiving data: {:error,"
            ]

  # And that of a call whose connection was lost: Gun's.
  @lost [":stream_error: :closed", ":stream_error: {:closed,", ":connection_error:"]

  @doc """
  The outcome of a call that ended with this error: a `GRPC.RPCError`, or what an adapter returned in
  its place.

      iex> error = struct!(GRPC.RPCError, status: 14, message: "shutting down")
      iex> GrpcLb.ElixirGrpc.Outcome.of(error)
      {:error, {:transport, :unavailable}}

      iex> error = struct!(GRPC.RPCError, status: 5, message: "no such user")
      iex> GrpcLb.ElixirGrpc.Outcome.of(error)
      :ok

      iex> error = struct!(GRPC.RPCError, status: 13, message: ":stream_error: :closed")
      iex> GrpcLb.ElixirGrpc.Outcome.of(error)
      {:error, {:transport, :connection_lost}}

      iex> GrpcLb.ElixirGrpc.Outcome.of("the connection is closed")
      {:error, {:transport, "the connection is closed"}}
  """
  @spec of(error :: term()) :: GrpcLb.outcome()
  def of(%{__struct__: GRPC.RPCError, status: status} = error) do
    cond do
      going_away?(error) -> :cancelled
      begins?(error, @unsent ++ @lost) -> {:error, {:transport, :connection_lost}}
      true -> Map.get(@outcomes, status, :ok)
    end
  end

  def of(other), do: {:error, {:transport, other}}

  @doc """
  Whether it is certain that no server has begun to serve the call, so that it may be made again.

      iex> error = struct!(GRPC.RPCError, status: 13, message: ":stream_error: :closing")
      iex> GrpcLb.ElixirGrpc.Outcome.unsent?(error)
      true

      iex> error = struct!(GRPC.RPCError, status: 13, message: ":stream_error: :closed")
      iex> GrpcLb.ElixirGrpc.Outcome.unsent?(error)
      false
  """
  @spec unsent?(error :: term()) :: boolean()
  # Mint's word for what came after the last call that a GOAWAY names.
  def unsent?(%{__struct__: Mint.HTTPError, reason: reason}), do: reason == :unprocessed
  def unsent?(error), do: begins?(error, @unsent)

  @doc """
  Whether the connection takes no more calls, as the server has said that it goes away (HTTP/2's GOAWAY).

      iex> error = struct!(GRPC.RPCError, status: 13, message: ":stream_error: :closing")
      iex> GrpcLb.ElixirGrpc.Outcome.going_away?(error)
      true
  """
  @spec going_away?(error :: term()) :: boolean()
  def going_away?(error), do: begins?(error, @going_away)

  defp begins?(%{__struct__: GRPC.RPCError, status: status, message: message}, beginnings)
       when status in [2, 13] and is_binary(message),
       do: String.starts_with?(message, beginnings)

  defp begins?(_other, _beginnings), do: false
end
