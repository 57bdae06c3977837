defmodule GrpcLb.Test.Unshowable do
  @moduledoc "What nobody can show: its `Inspect` throws."

  defstruct []

  defimpl Inspect do
    def inspect(_it, _opts), do: throw(:never_shown)
  end
end
