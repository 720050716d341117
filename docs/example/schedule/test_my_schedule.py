import torch
from my_schedule import MySchedule

t = torch.linspace(0, 1, 101, dtype=torch.float64)


def test_it_is_variance_preserving_and_goes_from_the_image_to_almost_pure_noise():
    alpha, sigma = MySchedule()(t)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t))
    assert (alpha.diff() < 0).all()
    assert (alpha[0], sigma[0]) == (1, 0)
    assert 0 < alpha[-1] < 0.02


def test_time_is_the_inverse_of_the_log_snr():
    schedule = MySchedule()
    torch.testing.assert_close(schedule.time(schedule.log_snr(t[1:])), t[1:])
