defmodule GrpcLb.ElixirGrpc.OutcomeTest do
  use ExUnit.Case, async: true

  alias GrpcLb.ElixirGrpc.Outcome

  doctest Outcome

  defp error(status, message \\ "so it is"), do: %GRPC.RPCError{status: status, message: message}

  test "of every status" do
    successes = [0, 3, 5, 6, 7, 9, 10, 11, 12, 16]
    failures = [2, 4, 8, 13, 15]

    for status <- 0..16 do
      outcome = Outcome.of(error(status))

      cond do
        status == 1 ->
          assert outcome == :cancelled

        status == 14 ->
          assert outcome == {:error, {:transport, :unavailable}}

        status in failures ->
          assert {:error, name} = outcome
          assert is_atom(name)

        status in successes ->
          assert outcome == :ok
      end
    end

    # What a later gRPC may have.
    assert Outcome.of(error(17)) == :ok
  end

  test "lost connections, in the words of the adapters" do
    for {status, message} <- [
          {13, ":stream_error: :closed"},
          {13, ":stream_error: {:closed, {:error, :etimedout}}"},
          {13, ":connection_error: :closed"},
          {2, "error occurred while receiving data: {:error, \"the connection is closed\"}"}
        ] do
      assert Outcome.of(error(status, message)) == {:error, {:transport, :connection_lost}}
    end

    assert {:error, {:transport, _}} = Outcome.of(%{reason: :closed})
    # It has had no call.
    assert Outcome.of(error(13, ":stream_error: :closing")) == :cancelled

    # A server may say the same of what it lost.
    assert Outcome.of(error(5, ":stream_error: :closed")) == :ok
    assert Outcome.of(error(13, "lost: :stream_error: :closed")) == {:error, :internal}
    assert Outcome.of(error(13, nil)) == {:error, :internal}
  end

  test "only what no server has begun to serve was not sent" do
    for message <- [
          ":stream_error: :closing",
          ":stream_error: {:goaway, :no_error, :\"The connection is going away.\"}",
          ":stream_error: {:stream_error, :refused_stream, :\"Stream reset by server.\"}"
        ] do
      assert Outcome.unsent?(error(13, message))
    end

    for message <- [
          ":stream_error: :closed",
          ":connection_error: :closed",
          ":stream_error: {:stream_error, :internal_error, :\"Stream reset by server.\"}"
        ] do
      refute Outcome.unsent?(error(13, message))
    end

    assert Outcome.unsent?(%{__struct__: Mint.HTTPError, reason: :unprocessed})
    refute Outcome.unsent?(%{__struct__: Mint.HTTPError, reason: :closed})
    refute Outcome.unsent?(error(14))
    refute Outcome.unsent?("the connection is closed")
  end
end
