import pytest

from beph_store.cohort import count_reasons
from beph_store.errors import AmbiguousColumn, CohortError
from beph_store.records import SurvivalLabel

HEAD = "case_id,{},{}\n"


def outcomes(table):
    return [(row.label.event, row.label.time_days) for row in table.rows]


@pytest.fixture
def survive(read):
    """``survive(event column, time column, rows of "event,time", **flags) -> LabelTable``."""

    def make(event_name, time_name, rows, **flags):
        lines = [f"P{i},{row}" for i, row in enumerate(rows)]
        return read(HEAD.format(event_name, time_name) + "\n".join(lines) + "\n", "survive", **flags)

    return make


# ---- events -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["event", "OSFL", "os_event_ind", "status", "OS", "OS_STATUS", "dead"])
@pytest.mark.parametrize(("one", "zero"), [("1", "0"), ("1.0", "0.0"), ("True", "False"), ("yes", "no")])
def test_one_means_death(survive, name, one, zero):
    table = survive(name, "days", [f"{one},100", f"{zero},200"])
    assert outcomes(table) == [(True, 100.0), (False, 200.0)]
    assert table.rows[0].label == SurvivalLabel("P0", True, 100.0)
    assert str(table.used[1]) == f"event: {name} (1 = event)"


@pytest.mark.parametrize("name", ["censorship", "Censored"])
def test_one_means_censored(survive, name):
    table = survive(name, "days", ["1,100", "0,200"])
    assert outcomes(table) == [(False, 100.0), (True, 200.0)]
    assert str(table.used[1]) == f"event: {name} (1 = censored)"


@pytest.mark.parametrize(
    ("dead", "alive"), [("Dead", "Alive"), ("1:DECEASED", "0:LIVING"), ("event", "censored")]
)
@pytest.mark.parametrize("name", ["vital_status", "OS_STATUS", "censorship"])
def test_words_speak_for_themselves(survive, name, dead, alive):
    table = survive(name, "days", [f"{dead},100", f"{alive},200", "Not Reported,300"])
    assert outcomes(table) == [(True, 100.0), (False, 200.0)]
    assert count_reasons(table.dropped) == {"no event status": 1}


@pytest.mark.parametrize(("means", "expected"), [("event", [True, False]), ("censored", [False, True])])
@pytest.mark.parametrize("name", ["event", "censorship", "cens"])
def test_the_flag_goes_before_the_name(survive, name, means, expected):
    table = survive(name, "days", ["1,100", "0,200"], event_means=means)
    assert [event for event, _ in outcomes(table)] == expected


@pytest.mark.parametrize("name", ["cens", "censor", "Censoring"])
def test_a_name_that_is_used_both_ways_needs_the_flag(survive, name):
    with pytest.raises(AmbiguousColumn, match="--event-means"):
        survive(name, "days", ["1,100", "0,200"])


def test_a_column_of_an_unknown_name_needs_the_flag(survive):
    with pytest.raises(AmbiguousColumn, match=r"does 1 in column 'relapse' mean .*--event-means"):
        survive("relapse", "days", ["1,100", "0,200"], event="relapse")
    assert outcomes(survive("relapse", "days", ["1,1", "0,2"], event="relapse", event_means="event")) == [
        (True, 1.0),
        (False, 2.0),
    ]


def test_values_of_another_code_are_never_half_understood(survive):
    rows = ["1,100", "2,200", "2,300"]  # R's lung data: 2 is dead
    with pytest.raises(
        AmbiguousColumn, match=r"'status' cannot be read as events because of '2'.*--event-value"
    ):
        survive("status", "days", rows)
    table = survive("status", "days", rows, event_value="2")
    assert [event for event, _ in outcomes(table)] == [False, True, True]
    assert str(table.used[1]) == "event: status (2 = event, 1 = censored)"
    table = survive("status", "days", rows, event_value="1", event_means="censored")
    assert [event for event, _ in outcomes(table)] == [False, True, True]
    with pytest.raises(CohortError, match=r"never holds '3' \(--event-value\); it holds 1, 2"):
        survive("status", "days", rows, event_value="3")


def test_a_flag_against_words_is_refused(survive):
    with pytest.raises(AmbiguousColumn, match="in words: leave --event-means out"):
        survive("vital_status", "days", ["Dead,1", "Alive,2"], event_means="censored")


def test_event_and_censorship_together(read):
    text = "case_id,event,censorship,days\nP1,1,{},10\nP2,0,{},20\nP3,,1,30\n"
    table = read(text.format(0, 1), "survive")
    assert outcomes(table) == [(True, 10.0), (False, 20.0)]
    with pytest.raises(
        AmbiguousColumn,
        match=r"'event' and 'censorship' contradict each other in 2 of 3 rows \(first in row 1\).*--event-column",
    ):
        read(text.format(1, 0), "survive")
    assert outcomes(read(text.format(1, 0), "survive", event="censorship"))[:2] == [
        (False, 10.0),
        (True, 20.0),
    ]


def test_a_flag_that_could_be_about_two_columns_is_refused(read):
    text = "case_id,event,censorship,days,survival_months\nP1,1,0,10,0.33\n"
    with pytest.raises(AmbiguousColumn, match="add --event-column"):
        read(text, "survive", event_means="event")
    with pytest.raises(AmbiguousColumn, match="add --time-column"):
        read(text, "survive", time_unit="days")


# ---- times ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "factor", "how"),
    [
        ("days", 1.0, "days"),
        ("time_days", 1.0, "days"),
        ("Survival Days", 1.0, "days"),
        ("survival_months", 30.4375, "months × 30.4375"),
        ("OS_MONTHS", 30.4375, "months × 30.4375"),
        ("survival_years", 365.25, "years × 365.25"),
    ],
)
def test_units_in_names(survive, name, factor, how):
    table = survive("event", name, ["1,2", "0,3.5"])
    assert outcomes(table) == [(True, 2 * factor), (False, 3.5 * factor)]
    assert str(table.used[2]) == f"time: {name} ({how})"


@pytest.mark.parametrize("name", ["time", "OS.time", "os_event_data", "survival", "futime"])
def test_a_name_without_a_unit_needs_the_flag(survive, name):
    with pytest.raises(AmbiguousColumn, match=f"column '{name}' does not say its unit.*--time-unit"):
        survive("event", name, ["1,100", "0,200"])
    assert outcomes(survive("event", name, ["1,1"], time_unit="months")) == [(True, 30.4375)]


def test_the_unit_flag_goes_before_the_name(survive):
    assert outcomes(survive("event", "days", ["1,1"], time_unit="years")) == [(True, 365.25)]


@pytest.mark.parametrize(("unit", "largest"), [("months", 1501), ("years", 126), ("days", 45700)])
def test_a_unit_that_makes_lives_too_long_is_refused(survive, unit, largest):
    with pytest.raises(
        AmbiguousColumn, match=f"goes up to {largest}, which in {unit} is 12[56] years.*--time-unit"
    ):
        survive("event", f"survival_{unit}", ["1,100", f"0,{largest}"])


def test_an_absurd_time_is_a_short_message(survive):
    with pytest.raises(AmbiguousColumn, match=r"1e\+300, which in days is 2.7e\+297 years"):
        survive("event", "survival_days", ["1,100", "0,1e300"])


def test_the_xena_layout_is_days_only_if_the_numbers_bear_it_out(survive):
    assert outcomes(survive("OS", "OS.time", ["1,100", "0,2501"])) == [(True, 100.0), (False, 2501.0)]
    for rows in (["1,100", "0,250"], ["1,100.5", "0,2501"]):
        with pytest.raises(AmbiguousColumn, match="--time-unit"):
            survive("OS", "OS.time", rows)


def test_the_hpl_layout_is_months_only_if_the_numbers_bear_it_out(survive):
    rows = ["1,2.663013698630137", "0,24.0"]  # 81 and 730 days, divided by 365 / 12
    table = survive("os_event_ind", "os_event_data", rows)
    assert [time for _, time in outcomes(table)] == pytest.approx([81, 730], rel=0.001)
    for rows in (["1,24", "0,36"], ["1,2.5", "0,24.0"]):
        with pytest.raises(AmbiguousColumn, match="--time-unit"):
            survive("os_event_ind", "os_event_data", rows)


def test_times_that_cannot_be_used_are_dropped_with_their_reason(survive):
    rows = ["1,0", "0,-5", "1,", "1,NA", "1,ten", "1,inf", "0,1_000", '0,"12,5"', "1,1e2"]
    table = survive("event", "days", rows)
    assert outcomes(table) == [(True, 100.0)]
    assert count_reasons(table.dropped) == {
        "the time is not a number": 4,
        "no time": 2,
        "the time is not above 0": 2,
    }


def test_two_times_that_agree_to_the_month_are_one(read):
    text = "case_id,event,survival_months,days\nP1,1,12,{}\nP2,0,24.5,745\n"
    assert outcomes(read(text.format(371), "survive")) == [(True, 371.0), (False, 745.0)]
    with pytest.raises(
        AmbiguousColumn, match=r"'days' and 'survival_months' contradict .*row 1.*--time-column"
    ):
        read(text.format(500), "survive")
    assert outcomes(read(text.format(500), "survive", time="survival_months"))[0] == (True, 12 * 30.4375)


def test_cases_whose_rows_contradict_each_other(read):
    text = "slide_id,case_id,event,days\na,P1,1,100\nb,P1,{}\nc,P2,0,300\n"
    assert len(read(text.format("1,100.0"), "survive").rows) == 3
    for other in ("0,100", "1,101"):
        with pytest.raises(CohortError, match="P1: event at 100 days, "):
            read(text.format(other), "survive")
        assert len(read(text.format(other), "survive", conflicts="drop").rows) == 1


@pytest.mark.parametrize(
    ("text", "flag"),
    [("case_id,days\nP1,3\n", "--event-column"), ("case_id,event,age\nP1,1,60\n", "--time-column")],
)
def test_a_missing_column_names_its_flag(read, text, flag):
    with pytest.raises(CohortError, match=flag):
        read(text, "survive")


# ---- the GDC's clinical tables ----------------------------------------------------------------

GDC = "case_id\tcase_submitter_id\tvital_status\tdays_to_death\tdays_to_last_follow_up\ttreatment\n"
UUID = "3c5a8f41-0000-4000-8000-0123456789ab"


def gdc_line(patient, status, death, follow_up):
    return f"{UUID}\tTCGA-AA-{patient}\t{status}\t{death}\t{follow_up}\tx\n"


def test_a_gdc_table(read):
    lines = [
        gdc_line("0001", "Dead", "334", "216.0"),
        gdc_line("0001", "Dead", "334", "216.0"),
        gdc_line("0002", "Alive", "'--", "16.0"),
        gdc_line("0003", "Dead", "'--", "90"),
        gdc_line("0004", "Alive", "'--", "'--"),
        gdc_line("0005", "Not Reported", "'--", "20"),
        gdc_line("0006", "Alive", "50", "20"),
        gdc_line("0007", "Dead", "0", "'--"),
    ]
    table = read(GDC + "".join(lines), "survive", "clinical.tsv")
    assert [(row.case_id[-4:], row.label.event, row.label.time_days) for row in table.rows] == [
        ("0001", True, 334.0),
        ("0002", False, 16.0),
    ]
    assert {one.row: one.reason for one in table.dropped} == {
        2: "repeats an earlier row",
        4: "dead, but no days_to_death",
        5: "alive, but no days_to_last_follow_up",
        6: "no event status",
        7: "vital_status is Alive, yet there is a days_to_death",
        8: "the time is not above 0",
    }
    assert [use.column for use in table.used] == [
        "case_submitter_id",
        "vital_status",
        "days_to_death / days_to_last_follow_up",
    ]


def test_the_last_follow_up_is_the_latest_of_a_patients_rows(read):
    lines = [gdc_line("0002", "Alive", "'--", follow_up) for follow_up in ("16", "90.0", "'--")]
    table = read(GDC + "".join(lines), "survive", "clinical.tsv")
    assert outcomes(table) == [(False, 90.0)]


def test_newer_gdc_exports_put_the_entity_before_the_name(read):
    text = "cases.submitter_id\tdemographic.vital_status\tdemographic.days_to_death\tdiagnoses.days_to_last_follow_up\n"
    table = read(text + "TCGA-AA-0001\tDead\t10\t'--\nTCGA-AA-0002\tAlive\t'--\t20\n", "survive", "c.tsv")
    assert outcomes(table) == [(True, 10.0), (False, 20.0)]


def test_a_time_column_beside_the_gdc_columns_must_agree_with_them(read):
    text = "case_id,days,OSFL,vital_status,days_to_death,days_to_last_follow_up\nP1,{},1,Dead,539,'--\n"
    table = read(text.format(539), "survive")
    assert [use.column for use in table.used] == ["case_id", "OSFL", "days"]
    with pytest.raises(AmbiguousColumn, match="--time-column"):
        read(text.format(100), "survive")
