"""What the doctor says depends on the machine; what it never does is fail or stay silent about a remedy."""

from trainer import doctor


def test_every_finding_that_is_not_fine_says_what_to_do():
    findings = doctor.examine()
    assert {finding.level for finding in findings} <= {"ok", "note", "problem"}
    assert all(finding.remedy for finding in findings if finding.level != "ok")


def test_memory_is_mentioned_only_when_it_is_short(monkeypatch):
    import psutil
    import torch

    def machine(card_free: float, card: float, free: float) -> list[str]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: card > 0)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (card_free * 1e9, card * 1e9))
        available = psutil.virtual_memory()._replace(available=free * 1e9)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: available)
        return [finding.what for finding in doctor.memory()]

    assert machine(0, 0, 20) == []
    assert machine(23, 24, 20) == []
    assert machine(4, 24, 20) == ["4.0 of 24.0 GB on the card are free"]
    assert machine(4, 4, 20) == ["4.0 GB on the card, less than any preset is made for"]
    assert machine(0, 0, 3) == ["3.0 GB of main memory are free"]
