defmodule GrpcLb.DashboardBrowserTest do
  # In a real browser, headless Chromium, which is told by its own debugging protocol over a pipe. It is
  # NOT RUN where there is none.
  use ExUnit.Case, async: false

  import GrpcLb.Test.Eventually

  alias GrpcLb.Test.Browser

  @moduletag skip: if(Browser.find(), do: false, else: "NOT RUN: there is no chromium here")

  setup do
    {:ok, dashboard} = GrpcLb.Dashboard.start(port: 0)
    on_exit(fn -> GrpcLb.Dashboard.stop(dashboard) end)
    browser = Browser.start!()
    %{url: GrpcLb.Dashboard.url(dashboard), browser: browser}
  end

  defp open!(browser, url, lb) do
    Browser.open!(browser, "#{url}##{GrpcLb.Native.summary(lb).number}")
  end

  defp text(browser, selector) do
    Browser.evaluate!(
      browser,
      "[...document.querySelectorAll(#{inspect(selector)})].map((e) => e.textContent).join('|')"
    )
  end

  test "a backend is killed, and the page shows it within two seconds", context do
    owner = spawn(fn -> Process.sleep(:infinity) end)

    {:ok, lb} =
      GrpcLb.new(:round_robin, [{"10.0.0.1", 1, owner: owner}, "10.0.0.2"], name: "shop")

    open!(context.browser, context.url, lb)
    eventually(fn -> text(context.browser, "tbody tr td.good") == "ready|ready" end)
    assert text(context.browser, "#balancer option:checked") =~ "shop"

    # How often it has to ask before it shows it: time is counted in looks, of which there is one a second.
    Browser.evaluate!(context.browser, """
    (() => {
      window.asked = () => performance.getEntriesByType("resource").filter((r) => /balancers\\/\\d+/.test(r.name)).length;
      window.shown = new Promise((resolve) => new MutationObserver(() => {
        const bad = document.querySelector("tbody td.bad");
        if (bad && bad.textContent === "down: owner died") resolve(asked());
      }).observe(document.body, { subtree: true, childList: true, characterData: true, attributes: true }));
    })()
    """)

    Process.exit(owner, :kill)
    eventually(fn -> match?([%{state: :down}, _other], GrpcLb.info(lb).backends) end)
    asked = Browser.evaluate!(context.browser, "asked()")
    assert Browser.evaluate!(context.browser, "POLL_MS") == 1_000
    assert Browser.evaluate!(context.browser, "window.shown") <= asked + 2
    assert text(context.browser, "#events") =~ "10.0.0.1: down: owner died"
    assert is_reference(lb)
  end

  test "hostile ids are text, and nothing is fetched from elsewhere", context do
    ids = [
      "<script>document.title='owned'</script>",
      "<img src=x onerror=document.title='owned'>",
      "</script><script>document.title='owned'</script>",
      "\"><svg onload=document.title='owned'>"
    ]

    {:ok, lb} = GrpcLb.new(:ring_hash, ids, name: "<b>bold</b>")
    open!(context.browser, context.url, lb)
    eventually(fn -> text(context.browser, "tbody th") =~ "onerror" end)
    eventually(fn -> text(context.browser, "#ring li") =~ "onerror" end)
    assert Browser.evaluate!(context.browser, "document.title") == "grpc_lb"
    assert Browser.evaluate!(context.browser, "document.scripts.length") == 1
    assert Browser.evaluate!(context.browser, "document.images.length") == 0
    assert text(context.browser, "#balancer option:checked") =~ "<b>bold</b>"

    elsewhere =
      "performance.getEntriesByType('resource').filter((r) => !r.name.startsWith(location.origin)).length"

    assert Browser.evaluate!(context.browser, elsewhere) == 0
    # The policy holds: a script that comes in by markup is not run.
    Browser.evaluate!(context.browser, """
    (() => { const s = document.createElement('script'); s.textContent = "document.title = 'owned'";
    document.body.append(s); return 1; })()
    """)

    assert Browser.evaluate!(context.browser, "document.title") == "grpc_lb"
    assert is_reference(lb)
  end

  test "an ejection is marked on the time line, with its time left", context do
    detection = [consecutive_failures: 1, base_ejection_time: 600_000]
    {:ok, lb} = GrpcLb.new(:round_robin, ["a", "b"], outlier_detection: detection)
    open!(context.browser, context.url, lb)
    eventually(fn -> text(context.browser, "tbody td.good") == "ready|ready" end)
    GrpcLb.run(lb, fn _ -> {:error, :down} end)

    eventually(fn ->
      text(context.browser, "tbody td.bad") =~ ~r/ejected, (9|10) min .* left: failed in a row/
    end)

    eventually(fn ->
      Browser.evaluate!(context.browser, "document.querySelectorAll('.mark').length") == 4
    end)

    assert text(context.browser, "#events li.bad") =~ "a ejected for"
    assert is_reference(lb)
  end

  test "controls have labels and work by keyboard; charts say what they show", context do
    {:ok, lb} = GrpcLb.new(:round_robin, ["a", "b"])
    open!(context.browser, context.url, lb)
    eventually(fn -> text(context.browser, "tbody td.good") == "ready|ready" end)

    eventually(fn ->
      Browser.evaluate!(
        context.browser,
        "document.querySelectorAll('figure svg[role=img]').length"
      ) == 4
    end)

    unnamed = """
    [...document.querySelectorAll('button, select, svg[role=img]')].filter((e) =>
      !(e.textContent.trim() && e.tagName === 'BUTTON') && !e.getAttribute('aria-label') && !(e.labels && e.labels.length)).length
    """

    assert Browser.evaluate!(context.browser, unnamed) == 0
    Browser.evaluate!(context.browser, "document.querySelector('.name').focus()")

    eventually(fn ->
      Browser.evaluate!(context.browser, "document.querySelectorAll('.dim').length") > 0
    end)

    Browser.evaluate!(context.browser, "document.getElementById('pause').click()")
    assert text(context.browser, "#pause") == "Go on"

    assert Browser.evaluate!(
             context.browser,
             "document.getElementById('pause').getAttribute('aria-pressed')"
           ) == "true"

    assert is_reference(lb)
  end

  test "ten minutes of a thousand backends are drawn", context do
    {:ok, lb} = GrpcLb.new(:round_robin, Enum.map(1..1_000, &{&1, &1}))
    open!(context.browser, context.url, lb)
    eventually(fn -> text(context.browser, "#left-out") == "and 500 more" end)

    assert Browser.evaluate!(context.browser, "document.querySelectorAll('tbody tr').length") ==
             500

    assert text(context.browser, "#figures") =~ "Ready1000"

    # Looks as they come, a second from one to the next.
    drawn = """
    (() => {
      paused = true;
      document.getElementById("window").value = "600";
      const now = Date.now, from = now(), first = before;
      try {
        for (let n = 1; n <= 600; n++) {
          Date.now = () => from + n * 1000;
          const backends = before.backends.map((one) => ({ ...one, picks: one.picks + 1, latency_ns: n }));
          const look = { ...before, at: before.at + 1000, backends,
            totals: { ...before.totals, picks: before.totals.picks + 1000 } };
          n < 600 ? (looks.push(kept(look, compare(look).rows, Date.now())), before = look) : took(look);
        }
      } finally { Date.now = now; }
      const paths = [...document.querySelectorAll("#charts figure:nth-child(2) path")];
      return [looks.length >= 599, looks[0].rows.size, paths.length, paths[0].getAttribute("d").split("L").length > 500,
        looks.at(-1).rest.toFixed(3), document.querySelector("tbody tr td:nth-child(4) span").textContent,
        document.getElementById("figures").textContent.includes("Picks a second1,000")].join();
    })()
    """

    assert Browser.evaluate!(context.browser, drawn) == "true,12,12,true,0.988,0.1 %,true"
    assert is_reference(lb)
  end
end
