"""An evacuation against a server that answers in any order, and tells of what happened late."""

from collections import Counter, deque
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.cluster.evacuation import PROBE_S, Evacuation
from orchestrator.cluster.model import Budget, Pod, PodChange, Selector
from orchestrator.cluster.ports import BudgetExhausted, Denied, Evicted, TryLater

APPS = ("web", "db", "free")
ENOUGH = 500


class Server:
    """Pods and budgets as they are, and what its watches have not told yet, in the order in which it happened."""

    def __init__(self, subjects, budgets):
        self.pods = {p.uid: p for p in subjects}
        self.budgets = {b.key: b for b in budgets}
        self.news = deque()
        self.asked = deque()
        self.leaving = deque(p.uid for p in subjects if p.deleting_since is not None)
        self.asks = Counter()
        self.put_off = Counter()
        self.closed = set()
        self.asked_at = {}

    def over(self, pod):
        return [b for b in self.budgets.values() if b.covers(pod) and pod.ready and pod.deleting_since is None]

    def left(self, budget):
        """What it allows, with the requests under way taken off."""
        return budget.allowed - sum(budget in self.over(self.pods[uid]) for uid in self.asked)

    def ask(self, uid, now):
        for budget in self.over(self.pods[uid]):
            silent_s = now - self.asked_at.get(budget.key, 0.0)
            assert self.left(budget) > 0 or silent_s >= PROBE_S, f"{uid}: no room in {budget}"
            self.asked_at[budget.key] = now
        self.asked.append(uid)
        self.asks[uid] += 1

    def answer(self, uid):
        """What eviction.go does."""
        self.asked.remove(uid)
        pod = self.pods[uid]
        for budget in self.over(pod):
            if budget.allowed <= 0:
                self.put_off[uid] += 1
                return BudgetExhausted(f"{budget.name} needs {budget.needed}", budget.name, None)
            self._set(budget, allowed=budget.allowed - 1, disrupted=budget.disrupted | {pod.name})
        self._change(pod, deleting_since=0.0)
        self.leaving.append(uid)
        return Evicted()

    def busy(self, uid, retry_after_s, *, overloaded):
        self.asked.remove(uid)
        self.put_off[uid] += 1
        return TryLater("busy", retry_after_s, overloaded=overloaded)

    def deny(self, uid):
        self.asked.remove(uid)
        self.closed.add(uid)
        return Denied("no", "ask")

    def let_go(self, uid):
        self.leaving.remove(uid)
        self.closed.add(uid)
        self.news.append(PodChange(self.pods[uid], gone=True))

    def replace_one(self, key):
        """The controller has seen a pod go, and its replacement is ready."""
        budget = self.budgets[key]
        if gone := sorted(n for n in budget.disrupted if n in self.closed):
            self._set(budget, allowed=budget.allowed + 1, disrupted=budget.disrupted - {gone[0]})

    def make_room(self, key):
        if self.budgets[key].allowed == 0:
            self._set(self.budgets[key], allowed=1)

    def _change(self, pod, **fields):
        self.pods[pod.uid] = replace(pod, **fields)
        self.news.append(PodChange(self.pods[pod.uid], gone=False))

    def _set(self, budget, **fields):
        self.budgets[budget.key] = replace(budget, **fields)
        self.news.append(self.budgets[budget.key])


class Course:
    """The evacuation and its server, a step at a time."""

    def __init__(self, subjects, budgets, parallel):
        self.now = 0.0
        self.parallel = parallel
        self.server = Server(subjects, budgets)
        self.evacuation = Evacuation(subjects, budgets=budgets, parallel=parallel, now=0.0)

    def take_due(self):
        for pod in self.evacuation.due(self.now):
            self.server.ask(pod.uid, self.now)
        assert len(self.server.asked) <= self.parallel

    def tell(self):
        news = self.server.news.popleft()
        if isinstance(news, PodChange):
            self.evacuation.pod_changed(news, self.now)
        else:
            self.evacuation.budget_changed(news)

    def step(self, what, choice):
        server = self.server
        pick = lambda items: sorted(items)[choice % len(items)]  # noqa: E731
        match what:
            case "answer" if server.asked:
                uid = pick(server.asked)
                self.evacuation.answered(uid, server.answer(uid), self.now)
            case "busy" if server.asked:
                uid = pick(server.asked)
                answer = server.busy(uid, (None, 3.0)[choice % 2], overloaded=choice % 3 == 0)
                self.evacuation.answered(uid, answer, self.now)
            case "deny" if server.asked:
                uid = pick(server.asked)
                self.evacuation.answered(uid, server.deny(uid), self.now)
            case "go" if server.leaving:
                server.let_go(pick(server.leaving))
            case "tell" if server.news:
                self.tell()
            case "replace" if server.budgets:
                server.replace_one(pick(server.budgets))
            case "wait":
                self.now += choice / 4
        self.take_due()

    def finish(self):
        """From here on everything goes well: budgets get room again, requests are answered, pods go."""
        for _ in range(ENOUGH):
            while self.server.news:
                self.tell()
            self.take_due()
            if self.evacuation.finished:
                return
            for what in ("answer", "go", "replace"):
                self.step(what, 0)
            for key in self.server.budgets:
                self.server.replace_one(key)
                self.server.make_room(key)
            self.now += 1.0


@st.composite
def pods(draw):
    count = draw(st.integers(1, 12))
    return [
        Pod(
            "default", f"p{n:02}", f"p{n:02}", "n1", "Running",
            ready=draw(st.integers(0, 3)) > 0,
            labels={"app": draw(st.sampled_from(APPS))},
            deleting_since=draw(st.sampled_from([None] * 5 + [0.0])),
        )
        for n in range(count)
    ]  # fmt: skip


@st.composite
def budgets(draw):
    return [
        Budget("default", app, Selector({"app": app}), draw(st.integers(0, 3)), healthy=9, needed=6, expected=9)
        for app in draw(st.sets(st.sampled_from(APPS[:2])))
    ]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["answer", "answer", "busy", "deny", "go", "go", "tell", "tell", "replace", "wait"]),
        st.integers(0, 20),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(pods(), budgets(), st.integers(1, 5), STEPS)
def test_whatever_the_server_answers_all_pods_are_dealt_with_and_no_budget_is_overdrawn(
    subjects, rules, parallel, steps
):
    course = Course(subjects, rules, parallel)

    course.take_due()
    for what, choice in steps:
        course.step(what, choice)
    course.finish()

    assert course.evacuation.finished
    assert {key for key, _, _ in course.evacuation.progress().denied} <= {
        f"default/{uid}" for uid in course.server.closed
    }
    assert course.server.closed == set(course.server.pods)
    for uid, asks in course.server.asks.items():
        assert asks <= 1 + course.server.put_off[uid]
