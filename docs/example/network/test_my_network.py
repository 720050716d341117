import torch
from my_network import MyNetwork

x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
label = torch.tensor([0.0, 300.0, 600.0, 999.0])


def test_the_prediction_has_the_shape_of_the_images_and_depends_on_noise_level_and_class():
    network = MyNetwork(classes=2)
    torch.nn.init.normal_(network.out.weight)
    one, other, none = (network(x, label, torch.full((4,), k)) for k in (0, 1, 2))
    assert one.shape == x.shape
    assert not torch.equal(one, other)
    assert torch.equal(network(x, label), none)
    assert not torch.equal(network(x, label.flip(0)), none)


def test_it_learns_with_gradients_for_every_weight():
    torch.manual_seed(0)
    network, noise = MyNetwork(), torch.randn_like(x)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(60):
        loss = (network(x + noise, label) - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.5  # 1 at initialisation
    assert all(weight.grad.abs().sum() > 0 for weight in network.parameters())
